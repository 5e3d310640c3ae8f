"""Absorbers: what a catalogue of them says, in which pixels they take light away, and how to say it in words."""

import numpy as np
import pandas as pd

from astrolab.lines import SPEED_OF_LIGHT, spectral_lines
from astrolab.schema import OBJECT, WAVELENGTH, check_spectra, check_targetid, spectral_dim
from astrolab.spectra import pixel_edges

KINDS = ("BAL", "DLA", "metal")
LINES = {line.name: line.wavelength for line in spectral_lines()}
# gas that absorbs in one of these absorbs in all of them (Weymann et al. 1991); in the others on its own
OUTFLOW_LINES = ("O VI", "Lyα", "N V", "Si IV", "C IV")
# metal lines of intervening gas, rest vacuum Å (Morton 2003); doublets at their middle
METALS = {
    "Si II 1260": 1260.42, "O I 1302": 1302.17, "C II 1334": 1334.53, "Si IV": 1398.3, "Si II 1526": 1526.71,
    "C IV": 1549.1, "Al II 1670": 1670.79, "Al III": 1858.6, "Fe II 2344": 2344.21, "Fe II 2382": 2382.76,
    "Fe II 2586": 2586.65, "Fe II 2600": 2600.17, "Mg II": 2799.1,
}  # fmt: skip
_METAL_HALF = 700.0  # km/s: a doublet, and the resolution of the rest grid


def mask_absorbers(spectra, absorbers):
    """Mask the pixels in which absorbers take light away.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame, lazy or in memory, with `redshift`.
    absorbers : pandas.DataFrame
        One row an absorber, from a catalogue or from `find_absorbers`: ``targetid``, ``kind`` and either
        ``velocity_min`` and ``velocity_max`` (km/s from ``line`` in the quasar's frame, negative = blueward; the line
        is C IV unless given) or ``redshift_absorber``, from which a DLA is masked in Lyα (as wide as ``log_nhi`` makes
        it, 20.6 unless given), Lyβ and metal lines, a metal absorber in these. The velocities of a BAL are masked in
        Lyα, N V, Si IV, C IV and O VI alike, if its line is one of them. Rows of other objects are passed over.

    Returns
    -------
    xarray.Dataset
        The same with ``ivar = 0`` in these pixels; an object without an absorber stays as it is, bit for bit.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If a kind or a line is unknown, or a row says nowhere where it absorbs.

    Examples
    --------
    >>> import astrolab as al
    >>> import pandas as pd
    >>> rest = al.to_restframe(al.simulate_survey(5, seed=0), al.rest_grid(1000, 4000, 200))
    >>> row = {"targetid": rest.targetid.values[1:2], "kind": "BAL", "velocity_min": -9e3, "velocity_max": -4e3}
    >>> masked = al.mask_absorbers(rest, pd.DataFrame(row))
    >>> bool((masked.ivar == 0).sum() > (rest.ivar == 0).sum())
    True
    """
    check_spectra(spectra)
    absorbers = check_absorbers(absorbers)
    row = pd.Index(spectra["targetid"].values).get_indexer(absorbers["targetid"])
    absorbers = absorbers[row >= 0].assign(row=row[row >= 0])
    dim = spectral_dim(spectra)
    absorbers["one_plus_z"] = 1 + spectra["redshift"].values[absorbers["row"]]
    windows = _windows(absorbers)
    stretch = windows["one_plus_z"] if dim == WAVELENGTH else 1.0
    low, high = windows["low"] * stretch, windows["high"] * stretch
    wavelength = spectra[dim].values
    # a pixel is masked when any of it lies in a window
    edges = pixel_edges(wavelength)
    is_known = np.isfinite(low) & np.isfinite(high)
    first = np.clip(np.searchsorted(edges, low, side="right") - 1, 0, len(wavelength))[is_known]
    last = np.clip(np.searchsorted(edges, high, side="left"), 0, len(wavelength))[is_known]
    steps = np.zeros((spectra.sizes[OBJECT], len(wavelength) + 1), "int32")
    np.add.at(steps, (windows["row"][is_known], first), 1)
    np.add.at(steps, (windows["row"][is_known], last), -1)
    is_masked = np.cumsum(steps[:, :-1], axis=1) > 0
    return spectra.assign(ivar=spectra["ivar"].where(~is_masked, np.float32(0)))


def describe_absorbers(absorbers):
    """Say in words what absorbs.

    Parameters
    ----------
    absorbers : pandas.DataFrame
        As in `mask_absorbers`.

    Returns
    -------
    pandas.Series of str
        One an object, by targetid.

    Examples
    --------
    >>> row = {"targetid": 1, "kind": "BAL", "line": "C IV", "velocity_min": -12400, "velocity_max": -4100}
    >>> describe_absorbers(pd.DataFrame([row])).loc[1]
    'BAL trough -12,400 to -4,100 km/s of C IV'
    """
    absorbers = check_absorbers(absorbers)

    def said(name, form):
        return absorbers[name].map(form.format).astype("object")

    kind, line = absorbers["kind"].astype("object"), absorbers["line"]
    velocities = said("velocity_min", "{:+,.0f}") + " to " + said("velocity_max", "{:+,.0f}")
    trough = kind + " trough " + velocities + " km/s of " + line
    at = kind.replace("metal", "metal absorber") + said("redshift_absorber", " at z {:.3f}")
    words = trough.where(absorbers["redshift_absorber"].isna(), at)
    # the lines of one absorber are said once
    each = absorbers[["targetid"]].assign(words=words.astype("object")).drop_duplicates()
    return each.groupby("targetid")["words"].agg("; ".join)


def check_absorbers(absorbers):
    """Return a catalogue of absorbers with every column that `mask_absorbers` knows, or say what is wrong with it.

    Parameters
    ----------
    absorbers : pandas.DataFrame
        As in `mask_absorbers`.

    Returns
    -------
    pandas.DataFrame
        A copy; NaN where nothing is said, C IV where no line is.

    Raises
    ------
    KeyError, ValueError
        As in `mask_absorbers`.
    """
    missing = [name for name in ("targetid", "kind") if name not in absorbers]
    if missing:
        raise KeyError(f"the absorbers have no column '{missing[0]}', expected 'targetid' and 'kind'.")
    check_targetid(absorbers["targetid"], "absorbers")
    absorbers = absorbers.reset_index(drop=True)
    for name in ("velocity_min", "velocity_max", "redshift_absorber", "log_nhi"):
        absorbers[name] = absorbers[name].astype("float64") if name in absorbers else np.nan
    line = absorbers["line"] if "line" in absorbers else pd.Series(None, index=absorbers.index, dtype="object")
    absorbers["line"] = line.astype("object").where(line.notna() & (line != ""), "C IV")
    for name, known in (("kind", KINDS), ("line", LINES)):
        unknown = absorbers.loc[~absorbers[name].isin(list(known)), name]
        if len(unknown):
            raise ValueError(f"there is no {name} {unknown.iloc[0]!r} of absorber, expected one of {', '.join(known)}.")
    says_where = (
        absorbers[["velocity_min", "velocity_max"]].notna().all(axis=1) | absorbers["redshift_absorber"].notna()
    )
    if not says_where.all():
        raise ValueError(
            f"the absorber of targetid {absorbers['targetid'][~says_where].iloc[0]} has neither velocity_min and "
            "velocity_max nor redshift_absorber, expected one of the two."
        )
    return absorbers


def _windows(absorbers):
    """Return the windows that absorbers take: ``row``, ``one_plus_z`` and rest wavelengths ``low``, ``high`` in Å."""
    parts = [_velocity_windows(absorbers, absorbers["line"].map(LINES))]
    is_outflow = (absorbers["kind"] == "BAL") & absorbers["line"].isin(OUTFLOW_LINES)
    parts += [_velocity_windows(absorbers[is_outflow], LINES[name]) for name in OUTFLOW_LINES]
    intervening = absorbers[absorbers["redshift_absorber"].notna()]
    parts += [_redshift_windows(intervening, line, _METAL_HALF) for line in METALS.values()]
    damped = intervening[(intervening["kind"] == "DLA") & intervening["velocity_min"].isna()]
    # where the damping wings of Lyα take a fifth of the light
    reach = 1_535 * 10 ** (0.5 * (damped["log_nhi"].fillna(20.6) - 20.3))
    parts += [_redshift_windows(damped, LINES["Lyα"], reach), _redshift_windows(damped, LINES["Lyβ"], 0.3 * reach)]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("row", "one_plus_z", "low", "high")}


def _velocity_windows(absorbers, line):
    low, high = (absorbers[name].to_numpy() / SPEED_OF_LIGHT for name in ("velocity_min", "velocity_max"))
    return _edges(absorbers, np.asarray(line) * (1 + low), np.asarray(line) * (1 + high))


def _redshift_windows(absorbers, line, half):
    centre = line * (1 + absorbers["redshift_absorber"].to_numpy()) / absorbers["one_plus_z"].to_numpy()
    reach = np.asarray(half) / SPEED_OF_LIGHT
    return _edges(absorbers, centre * (1 - reach), centre * (1 + reach))


def _edges(absorbers, low, high):
    return absorbers[["row", "one_plus_z"]].to_dict("series") | {"low": low, "high": high}
