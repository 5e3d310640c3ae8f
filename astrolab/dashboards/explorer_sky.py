"""The sky in healpix pixels: cells of one area, nested, so that a coarser map is a shift of a finer one."""

import numpy as np
from numba import njit

ORDER = 9  # nside 512, 7 arcminutes: the finest map
_SKY = 41_252.961  # deg²


def healpix_pixels(ra, dec, order=ORDER):
    """Return the healpix pixel, nested, that each position lies in.

    Parameters
    ----------
    ra, dec : numpy.ndarray, shape (n_object,)
        ICRS, degrees.
    order : int, optional
        nside is 2 to this power; the data model's own column has order 6.

    Returns
    -------
    numpy.ndarray, shape (n_object,), int32
        -1 where a position is not known.

    Notes
    -----
    The projection of Górski et al. (2005, ApJ 622, 759), sections 4 and 5.3.

    Examples
    --------
    >>> healpix_pixels(np.array([10.0, 45.0, np.nan]), np.array([0.0, 90.0, 0.0]), order=0)
    array([ 4,  0, -1], dtype=int32)
    """
    pixels = np.full(len(ra), -1, "int32")
    _find_pixels(np.asarray(ra, "float64"), np.asarray(dec, "float64"), 1 << order, pixels)
    return pixels


def pixel_area(order):
    """Return the area of a healpix pixel, deg²."""
    return _SKY / (12 << 2 * order)


def map_order(extent, n_cells):
    """Return the order at which healpix pixels are a few screen cells wide.

    Parameters
    ----------
    extent : tuple of float
        ra_min, ra_max, dec_min, dec_max, degrees.
    n_cells : int
        Cells of the map from left to right.

    Returns
    -------
    int

    Examples
    --------
    >>> map_order((0, 360, -90, 90), 180), map_order((10, 12, 0, 1), 180)
    (5, 9)
    """
    cell = max(abs(extent[1] - extent[0]), abs(extent[3] - extent[2])) / n_cells
    fitting = [order for order in range(3, ORDER + 1) if np.sqrt(pixel_area(order)) >= 0.9 * cell]
    return fitting[-1] if fitting else 3


def pixel_density(pixels, order):
    """Return the density of objects in every healpix pixel of the sky.

    Parameters
    ----------
    pixels : numpy.ndarray of int32
        Of the objects, at `ORDER`; -1 where a position is not known.
    order : int
        Of the pixels that are counted in.

    Returns
    -------
    numpy.ndarray, shape (12 * 4**order,), float32
        Objects per square degree; NaN where there is none.
    """
    counts = np.bincount(pixels[pixels >= 0] >> 2 * (ORDER - order), minlength=12 << 2 * order)
    return np.where(counts > 0, counts / pixel_area(order), np.nan).astype("float32")


def sky_raster(density, extent, shape, order):
    """Return a map of RA and Dec, each cell with the value of the healpix pixel that its centre lies in.

    Parameters
    ----------
    density : numpy.ndarray, shape (12 * 4**order,)
        Of every pixel.
    extent : tuple of float
        ra_min, ra_max, dec_min, dec_max of the map, degrees.
    shape : tuple of int
        n_dec, n_ra.
    order : int
        Of the pixels.

    Returns
    -------
    numpy.ndarray, shape (n_dec, n_ra), float32
        NaN beyond the poles.
    """
    edges = (np.linspace(low, high, n + 1) for low, high, n in zip(extent[::2], extent[1::2], shape[::-1], strict=True))
    ra, dec = (0.5 * (edge[1:] + edge[:-1]) for edge in edges)
    at = healpix_pixels(np.tile(ra, shape[0]), np.repeat(dec, shape[1]), order)
    return np.where(at >= 0, density[at], np.float32(np.nan)).reshape(shape)


@njit(nogil=True, cache=True)
def _find_pixels(ra, dec, nside, pixels):
    for i in range(len(ra)):
        if not (np.isfinite(ra[i]) and -90 <= dec[i] <= 90):
            continue
        turn, z = (ra[i] % 360.0) / 90.0, np.sin(np.radians(dec[i]))
        if abs(z) <= 2 / 3:  # the equatorial belt
            up, down = int(nside * (0.5 + turn - 0.75 * z)), int(nside * (0.5 + turn + 0.75 * z))
            face_up, face_down = up // nside, down // nside
            if face_up == face_down:
                face = face_up % 4 + 4
            else:
                face = face_up % 4 if face_up < face_down else face_down % 4 + 8
            x, y = down % nside, nside - up % nside - 1
        else:  # a polar cap
            quarter = min(3, int(turn))
            reach = nside * np.sqrt(3 * (1 - abs(z)))
            up = min(nside - 1, int((turn - quarter) * reach))
            down = min(nside - 1, int((quarter + 1 - turn) * reach))
            face, x, y = (quarter, nside - down - 1, nside - up - 1) if z > 0 else (quarter + 8, up, down)
        pixel, bit = face * nside * nside, 0
        while (1 << bit) < nside:
            pixel += ((x >> bit) & 1) << 2 * bit | ((y >> bit) & 1) << (2 * bit + 1)
            bit += 1
        pixels[i] = pixel
