"""The night sky that a DESI fibre sees: a continuum, and the lines of `astrolab.airglow`."""

from functools import lru_cache

import numpy as np

from astrolab.airglow import AIRGLOW
from astrolab.simulation.grid import LINE_SPREAD, WAVELENGTH

# sky continuum in one fibre, at (Å, 1e-17 erg/s/cm2/Å), after the fibre's aperture correction
_CONTINUUM = (
    (3600, 2.2),
    (4000, 1.9),
    (4500, 2.0),
    (5200, 2.5),
    (5600, 2.9),
    (6000, 1.9),
    (7000, 1.5),
    (9000, 1.7),
    (9824, 2.2),
)


@lru_cache
def sky_brightness():
    """Return the brightness of the sky in one fibre, on the simulator's grid.

    Returns
    -------
    numpy.ndarray, shape (n_wavelength,), float64
        Flux density in 1e-17 erg/s/cm2/Å as a calibrated point source would have it; observed frame, vacuum.
    """
    brightness = np.interp(WAVELENGTH, *np.transpose(_CONTINUUM))
    centre, strength = np.transpose(AIRGLOW)
    sigma = 1.1 * LINE_SPREAD  # the fibre's image on the detector is wider than a point source's
    for line, power in zip(centre, strength, strict=True):
        brightness += power / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((WAVELENGTH - line) / sigma) ** 2)
    brightness.flags.writeable = False
    return brightness
