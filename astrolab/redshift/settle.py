"""The last step of a quasar's redshift: settled by sets whose lines lie where they lie in catalogues.

The scan's own sets come from a simulator, which knows rare quasars but puts the broad lines some hundred km/s away from
where they are. Two sets learned from catalogued quasars know better, but they are too few to be scanned: galaxies with
active nuclei would pass for quasars. So the scan decides what an object is, and these sets where exactly.
"""

import numpy as np

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.refine import IS_MINIMUM, REDSHIFT, REDSHIFT_ERR, refine_minima
from astrolab.redshift.templates import open_quasar_templates, open_templates
from astrolab.redshift.troughs import quasar_set, refit_quasar

_FARTHEST = 2000.0  # km/s: what lies farther is another minimum


def settling_sets(templates):
    """Return the sets that settle the redshifts of quasars that `templates` found: none for sets of other origin.

    Parameters
    ----------
    templates : sequence of TemplateSet
        What is scanned.

    Returns
    -------
    tuple of TemplateSet
        AstroLab's, if all quasar sets are AstroLab's own.

    Examples
    --------
    >>> len(settling_sets(open_templates())), len(settling_sets(open_templates()[:0]))
    (2, 0)
    """
    quasars = [one for one in templates if one.spectype == "QSO"]
    is_own = quasars and all(one in open_templates() for one in quasars)
    return open_quasar_templates() if is_own else ()


def settle_quasars(flux, weight, log_wavelength, settling, redshift, has_troughs):
    """Settle the redshift of each quasar.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_object, n_wavelength), float32
        As `astrolab.redshift.scan.clean_spectra` gives them.
    log_wavelength : numpy.ndarray, shape (n_wavelength,)
        log10 of the observed wavelengths in Å.
    settling : sequence of TemplateSet
        As `settling_sets` gives them.
    redshift : numpy.ndarray, shape (n_object,)
        What the scan found; NaN for objects that are not to be settled.
    has_troughs : numpy.ndarray, shape (n_object,), bool
        Whether that was found without the pixels of broad absorption.

    Returns
    -------
    redshift, redshift_err : numpy.ndarray, shape (n_object,)
        NaN where the scan's own stands: beyond redshift 3.4, and where there is no minimum within 2,000 km/s.
    """
    out = np.full((2, len(redshift)), np.nan)
    sets = [quasar_set(settling, z) if np.isfinite(z) else None for z in redshift]
    fits = np.full((len(redshift), 5), np.nan)
    for one in settling:
        is_own = np.array([own is one for own in sets], bool)
        rows = np.flatnonzero(is_own & ~has_troughs)
        limits = one.redshift_min, one.redshift_max
        fits[rows] = refine_minima(flux[rows], weight[rows], log_wavelength, one, redshift[rows], limits)
        for i in np.flatnonzero(is_own & has_troughs):
            fits[i] = refit_quasar(flux[i], weight[i], log_wavelength, settling, redshift[i])
    moved = SPEED_OF_LIGHT * np.abs(fits[:, REDSHIFT] - redshift) / (1 + redshift)
    is_settled = (fits[:, IS_MINIMUM] == 1) & (moved < _FARTHEST) & np.isfinite(fits[:, REDSHIFT_ERR])
    out[:, is_settled] = fits[is_settled][:, [REDSHIFT, REDSHIFT_ERR]].T
    return out
