"""Rows of a DESI coadd, camera by camera as they lie in the file, and their coaddition where the spectra are to lie."""

from typing import NamedTuple

import numpy as np

from astrolab.readers.bigendian import add_arm

WAVELENGTH = 3600 + 0.8 * np.arange(7781)  # Å, vacuum
WAVELENGTH.flags.writeable = False
_REASONS = (
    "ivar is negative or not finite in {} pixels of camera {}",
    "flux is not finite in {} pixels of camera {} that are not masked",
)


class Arm(NamedTuple):
    """What one camera gave: the bits of big-endian numbers, shape (n_rows, n_wavelength), and where on the grid."""

    flux: np.ndarray
    ivar: np.ndarray
    is_masked: np.ndarray
    where: slice


class CameraRows:
    """Rows of a coadd whose cameras are not coadded yet: that is done where the spectra are to lie.

    Parameters
    ----------
    arms : dict of str to Arm
        By camera, in the order of wavelength.
    """

    def __init__(self, arms):
        self._arms = arms
        self._is_seen = np.zeros(len(WAVELENGTH), bool)
        for arm in arms.values():
            self._is_seen[arm.where] = True

    def fill(self, rows, pixels, places):
        """Coadd rows.

        Parameters
        ----------
        rows : numpy.ndarray, shape (n,), int
            Which.
        pixels : numpy.ndarray, shape (2, n_places, 7781), float32
            Flux and ivar.
        places : numpy.ndarray, shape (n,), int
            Where to put them; the other places stay as they are.

        Returns
        -------
        dict of int to str
            Each of `rows` that must not be used, with the reason.
        """
        problems = {}
        if not self._is_seen.all():
            pixels[:, places] = 0
        n_seen = 0
        for camera, arm in self._arms.items():
            n_bad = np.zeros((len(rows), 2), int)
            first, n_arm = arm.where.start, arm.flux.shape[1]
            n_overlap = min(max(n_seen - first, 0), n_arm)
            add_arm(arm.flux, arm.ivar, arm.is_masked, rows, first, n_overlap, *pixels, places, n_bad)
            n_seen = max(n_seen, arm.where.stop)
            for i, kind in np.argwhere(n_bad):
                problems.setdefault(int(rows[i]), _REASONS[kind].format(n_bad[i, kind], camera))
        return problems
