"""Reasons: why an object is ranked where it is, in an astronomer's words."""

import numpy as np
import pandas as pd

from astrolab.anomaly.classes import CLASS_UNIT, CLASSES
from astrolab.lines import SPEED_OF_LIGHT, spectral_lines

# a score is worth mentioning from here on, in sigma above its peers
_WORTH_SAYING = 2.0

# the emission lines whose broad absorption troughs lie to their blue, and how far (Weymann et al. 1991)
_TROUGH_LINES = ("Lyα", "N V", "Si IV", "C IV", "Al III", "Mg II")
_TROUGH_REACH = 25_000.0  # km/s
_LINE_REACH = 4_000.0  # km/s

# what clauses are made of, beside the scores
_USED = ("redshift", "chi2", "log_chi2", "class_index", "band_", "trough_", "z_")

# narrower than this a feature is no broad line; away from every line it is seldom the object's own
_NARROW = 1_000.0  # km/s


def describe_reasons(table):
    """Say in words what made each object strange.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an object with ``redshift``, the parts of the score (sigma above peers), ``chi2``, ``z_<line>``
        (sigma), ``class_index``, ``log_chi2_class`` and ``log_chi2_model``; and of the strongest residual of either
        sign (``band``) and of the deepest missing flux (``trough``) ``_sigma`` (signed significance), ``_wavelength``
        (centre, rest frame, Å) and ``_width`` (km/s).

    Returns
    -------
    numpy.ndarray, shape (object,), object
        Clauses in order of weight, separated by ``"; "``.
    """
    table = table[[name for name in table if name in _CLAUSES or name.startswith(_USED)]]
    scores = table[list(_CLAUSES)].to_numpy()
    is_said = scores >= _WORTH_SAYING
    text = np.full(len(table), "ordinary: no score is more than 2σ above its peers", dtype=object)
    # most objects of a survey are ordinary, and there are millions of them
    rows = np.flatnonzero(is_said.any(axis=1))
    is_said, words = is_said[rows], np.full((len(rows), len(_CLAUSES)), "", dtype=object)
    for column, clause in enumerate(_CLAUSES.values()):
        own = is_said[:, column]
        if own.any():
            words[own, column] = clause(table.iloc[rows[own]])
    order = np.argsort(-scores[rows], axis=1, kind="stable")
    first, *others = np.take_along_axis(words, order, 1).T
    for column in others:
        first = first + np.where(column == "", "", "; ").astype(object) + column
    text[rows] = first
    return text


def _misfit(table):
    return "misfit, χ² per pixel " + table["chi2"].map("{:.2g}".format) + ", most of all " + _window(table, "band")


def _trough(table):
    return _window(table, "trough")


def _bent_continuum(table):
    return pd.Series("continuum of a shape that no tilt makes ordinary", index=table.index)


def _far_latent(table):
    return pd.Series("unusual combination of features in latent space", index=table.index)


def _other_class(table):
    """Name the class that explains the spectrum better than the model of the survey does, or than quasars do."""
    names = table["class_index"].map(lambda index: CLASSES[int(index)])
    of_class, of_model = (np.exp(table[name]) for name in ("log_chi2_class", "log_chi2_model"))
    of_quasars = of_class * np.exp(CLASS_UNIT * table["score_class"])
    is_taught = of_model < 0.8 * of_quasars  # the survey's model knows such objects; the shipped one was asked
    against = of_model.where(~is_taught, of_quasars).map("{:.2g}".format)
    against += np.where(is_taught, " of a model that knows quasars alone", "")
    chi2 = of_class.map("{:.2g}".format)
    return "another class explains it better: " + names + ", χ² per pixel " + chi2 + " against " + against


def _window(table, kind):
    """Describe a window of residuals: where, how wide, how significant."""
    wavelength = table[f"{kind}_wavelength"].to_numpy()
    is_trough = table[f"{kind}_sigma"].to_numpy() < 0
    observed = wavelength * (1 + table["redshift"].to_numpy())
    return (
        pd.Series(np.where(is_trough, "missing flux ", "excess flux "), index=table.index)
        + _place(wavelength, is_trough)
        + pd.Series(wavelength, index=table.index).map("{:.0f} Å rest, ".format)
        + pd.Series(observed, index=table.index).map("{:.0f} Å observed, over ".format)
        + table[f"{kind}_width"].round(-2).map("{:,.0f} km/s".format)
        + table[f"{kind}_sigma"].abs().map(" at {:.1f}σ".format)
        + _doubt(wavelength, is_trough, table[f"{kind}_width"].to_numpy())
    )


def _weak_lines(table):
    """Name the lines that fall short of the survey's most."""
    names = [name for name in table if name.startswith("z_")]
    z = table[names].to_numpy()
    z = np.where(np.isfinite(z), z, np.inf)
    order = np.argsort(z, axis=1, kind="stable")[:, :3]
    lines = np.array([name.removeprefix("z_") for name in names], dtype=object)[order]
    lowest = np.take_along_axis(z, order, 1)
    words = [
        np.where(value < -1, name + pd.Series(value).map(" {:+.1f}σ".format).to_numpy(dtype=object), "")
        for name, value in zip(lines.T, lowest.T, strict=True)
    ]
    text = pd.Series(words[0], index=table.index)
    for word in words[1:]:
        text += np.where(word == "", "", ", ") + word
    return "emission lines weak or missing" + np.where(text == "", "", ": ") + text


def _doubt(wavelength, is_trough, width):
    """Say where a feature is too narrow, and too far from any line, to be trusted as the object's own."""
    _, velocity = _nearest([line.wavelength for line in spectral_lines()], wavelength)
    is_doubtful = (width < _NARROW) & (np.abs(velocity) >= _LINE_REACH)
    emission = ", narrow and at no known line: perhaps a cosmic ray or sky residual"
    absorption = ", narrow and at no known line: perhaps an intervening absorber or a bad pixel"
    return np.where(is_doubtful, np.where(is_trough, absorption, emission), "").astype(object)


def _place(wavelength, is_trough):
    """Name the line a band belongs to: one close by, or the broad line to the red of a trough."""
    name, velocity = _nearest([line.wavelength for line in spectral_lines()], wavelength)
    is_near = np.abs(velocity) < _LINE_REACH
    lines = np.array([line.name for line in spectral_lines()])
    troughs = [line for line in spectral_lines() if line.name in _TROUGH_LINES]
    red, red_velocity = _first_to_the_red([line.wavelength for line in troughs], wavelength)
    is_outflow = is_trough & (red_velocity > -_TROUGH_REACH) & ~is_near
    text = np.where(is_near, "at " + lines[name].astype(object) + _signed(velocity), "at ")
    blue = np.array([line.name for line in troughs])[red].astype(object) + _signed(red_velocity)
    return np.where(is_outflow, "blueward of " + blue, text)


def _signed(velocity):
    """Format velocities (km/s, negative = blueward) to the precision of a rest-grid pixel."""
    rounded = np.round(np.clip(velocity, -1e6, 1e6), -2) + 0.0  # + 0.0: no "-0"
    return pd.Series(rounded).map(" ({:+,.0f} km/s), ".format).to_numpy(dtype=object)


def _nearest(lines, wavelength):
    lines = np.asarray(lines)
    right = np.clip(np.searchsorted(lines, wavelength), 1, len(lines) - 1)
    index = np.where(wavelength - lines[right - 1] < lines[right] - wavelength, right - 1, right)
    return index, SPEED_OF_LIGHT * (wavelength / lines[index] - 1)


def _first_to_the_red(lines, wavelength):
    lines = np.asarray(lines)
    index = np.clip(np.searchsorted(lines, wavelength), 0, len(lines) - 1)
    velocity = SPEED_OF_LIGHT * (wavelength / lines[index] - 1)
    return index, np.where(velocity <= 0, velocity, -np.inf)


def _above_peers(name, clause):
    """Return a clause that ends in the score it explains."""
    return lambda table: clause(table) + table[name].map(" ({:.1f}σ above its peers)".format)


_CLAUSES = {
    "score_chi2": _above_peers("score_chi2", _misfit),
    "score_trough": _above_peers("score_trough", _trough),
    "score_lines": _above_peers("score_lines", _weak_lines),
    "score_continuum": _above_peers("score_continuum", _bent_continuum),
    "score_latent": _above_peers("score_latent", _far_latent),
    "score_class": _other_class,
}
