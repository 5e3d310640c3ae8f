"""Explanation: which wavelengths made an object's score, tested by taking them away."""

import numpy as np
import pandas as pd

from astrolab.anomaly.attribution import attribute_pixels
from astrolab.anomaly.regions import Window, find_windows, name_region
from astrolab.anomaly.rescoring import Rescorer
from astrolab.anomaly.scores import pixel_faults_of, reconstruct
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.schema import PIXEL_FAULTS, WAVELENGTH_REST, check_spectra

REGION_COLUMNS = (
    "targetid",
    "region",
    "what",
    "line",
    "velocity",
    "velocity_err",
    "velocity_width",
    "wavelength_min",
    "wavelength_max",
    "significance",
    "chi2_share",
    "attribution_share",
    "score_without",
    "rank_without",
    "text",
)

_BATCH = 32
_N_SECOND = 8  # candidates that are tried again beside a region already named
_ALMOST = 0.9  # of the best candidate's effect: among these the smallest is named
# what lowering the score counts for: a window that merely says where to look says less than a feature
_COUNTS_FOR = {"feature": 1.0, "line": 1.0, "continuum": 0.5, "part": 0.5}
_WORTH_NAMING = 0.1  # of the score: what a further region must take off
_NEIGHBOURS = 800.0  # km/s: features of one sign no farther apart are one
_EXPLAINED = 0.25  # of the score: when no more is left, no further region is named


def explain_anomaly(models, spectra, scale, *, n_regions=3):
    """Find the wavelengths that made each object's score.

    Windows are proposed by the significance of residuals, by attribution (`attribute_anomaly`), by the emission lines
    that are weaker than the survey's and by the continuum between lines. Each is then taken away, as if it had not been
    observed, and the object is scored again on the survey's scale: the window whose loss lowers ``anomaly_score`` most
    is region 1 (of those within a tenth of it the smallest), the window that lowers it most beside region 1 is region
    2, and so on until three quarters of the score are gone or no window is worth a tenth of it; features of one sign
    that are neighbours are then one region. A continuum window or a
    part of the range, which merely say where to look, must lower the score twice as much as a feature. So a region says
    what the ranking rests on, not what merely looks strange.

    A missing emission line or a bent continuum is taken away the same way, by not observing its window: the line then
    has no measured strength and the continuum one point less. Nothing is put in its place, because what would have
    been there is not known.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Those that ranked the objects. Residuals are the first one's; scores are everyone's.
    spectra : xarray.Dataset
        Some normalised spectra of the survey, dims ``(object, wavelength_rest)``, with ``targetid`` and ``redshift``:
        such as `attach_spectra` gives. Pixels with ``ivar == 0`` do not matter.
    scale : Scale
        From `score_anomalies`.
    n_regions : int, optional
        Regions of each object, at most.

    Returns
    -------
    pandas.DataFrame
        One row a region, in the order of the objects: ``targetid``; ``region`` (1 = most important); ``what`` (trough,
        absorption, missing flux, excess, weak line, continuum, or part of the range, where nothing narrower will do);
        ``line`` (empty where none is near), ``velocity`` of the residual's centroid from it and ``velocity_err`` (km/s,
        negative blueward; NaN without a line); ``velocity_width`` (km/s); ``wavelength_min`` and ``wavelength_max``
        (rest vacuum Å, edges of pixels); ``significance`` (signed, sigma, of the summed residual); ``chi2_share`` (of
        the excess χ², per cent, of all pixels or, if more, of the regions; NaN where χ² is that of ordinary objects);
        ``attribution_share`` (of the positive attribution, per cent); ``score_without`` and ``rank_without`` (the
        anomaly_score without this region alone, among the same peers, and its rank in the survey); ``text``, all of
        this in words.

    Raises
    ------
    SchemaError
        If the spectra are not what `check_spectra` expects.
    ValueError
        If `n_regions` is less than 1, or an object has no good pixel or no redshift.

    Notes
    -----
    Deletion as the test of an explanation: Samek et al. (2017, IEEE TNNLS 28, 2660).

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> vae = al.VAE(n_wavelength=100)
    >>> ranking, _, scale = al.score_anomalies(vae, rest)
    >>> regions = al.explain_anomaly(vae, al.attach_spectra(vae, rest, ranking.head(2)), scale)
    >>> regions["targetid"].nunique()
    2
    """
    if n_regions < 1:
        raise ValueError(f"n_regions is {n_regions}, expected at least 1.")
    check_spectra(spectra)
    rescorer = Rescorer(models, scale, spectra[WAVELENGTH_REST].values)
    top = spectra[[name for name in ("flux", "ivar", PIXEL_FAULTS) if name in spectra]].compute()
    columns = [top[name].values for name in ("targetid", "flux", "ivar", "redshift")]
    _check_objects(*columns)
    columns.append(pixel_faults_of(top))
    batches = [slice(start, start + _BATCH) for start in range(0, len(columns[0]), _BATCH)]
    rows = [row for batch in batches for row in _explain_batch(rescorer, *(c[batch] for c in columns), n_regions)]
    return pd.DataFrame(rows, columns=list(REGION_COLUMNS))


def _check_objects(targetid, flux, ivar, redshift):
    is_bad = ~((ivar > 0).any(axis=1) & np.isfinite(redshift))
    if is_bad.any():
        raise ValueError(
            f"targetid {targetid[is_bad][0]} has no good pixel or no redshift ({is_bad.sum()} of {len(targetid)} "
            "objects), expected ranked ones: attach_spectra(models, spectra, ranking.head(50))."
        )


def _explain_batch(rescorer, targetid, flux, ivar, redshift, pixel_faults, n_regions):
    """Return the rows of some objects; every variant of all of them is scored in one batch."""
    raw = rescorer.raw(flux, ivar, redshift, pixel_faults)
    before = rescorer.place(raw)
    attribution = attribute_pixels(rescorer, flux, ivar, before)
    residual, weight = _residuals(rescorer.members[0], flux, ivar)
    scores = before.to_dict("records")
    objects = [
        _Object(score, find_windows(*pixels, score, rescorer.wavelength))
        for score, *pixels in zip(scores, residual, weight, attribution, strict=True)
    ]

    def try_windows(tried, is_alone=False):
        """Score every object without each of its windows that are tried, alone or beside those that are named."""
        rows = np.repeat(np.arange(len(objects)), [len(windows) for windows in tried])
        is_removed = np.zeros((len(rows), flux.shape[1]), bool)
        flat = [window for windows in tried for window in windows]
        for removed, row, window in zip(is_removed, rows, flat, strict=True):
            for taken in (window,) if is_alone else (*objects[row].named, window):
                removed[taken.first : taken.last] = True
        scores = rescorer.score_without(flux[rows], ivar[rows], raw.iloc[rows], is_removed) if len(rows) else []
        return np.split(scores, np.cumsum([len(windows) for windows in tried])[:-1])

    n_good = np.pad(np.cumsum(ivar > 0, axis=1), ((0, 0), (1, 0)))
    for _ in range(n_regions):
        tried = [one.candidates() for one in objects]
        for one, windows, scores, count in zip(objects, tried, try_windows(tried), n_good, strict=True):
            one.name_one(windows, scores, count)
    merged = [one.merge(*pixels, rescorer.wavelength) for one, *pixels in zip(objects, residual, weight, strict=True)]
    for one, windows, scores in zip(objects, merged, try_windows(merged, is_alone=True), strict=True):
        one.alone |= dict(zip(windows, scores, strict=True))
    pixels = zip(targetid, objects, residual, weight, attribution, strict=True)
    return [row for parts in pixels for row in _rows(rescorer, *parts)]


class _Object:
    """What was proposed, tried and named of one object."""

    def __init__(self, scores, windows):
        self.scores, self.left = scores, scores["anomaly_score"]
        self._windows, self.alone, self.named = windows, {}, []

    def candidates(self):
        """Return the windows to try: at first all of them, then the best of those that overlap with none named."""
        if not self.named:
            return self._windows
        free = [w for w in self._windows if all(w.last <= n.first or w.first >= n.last for n in self.named)]
        return sorted(free, key=self.alone.get)[:_N_SECOND]

    def name_one(self, windows, scores, n_good):
        """Name the window whose loss lowers the score most, if there is one worth it."""
        if not windows:
            return
        lowered = (self.left - scores) * [_COUNTS_FOR[window.kind] for window in windows]
        best = lowered.max()
        if self.named:
            score = abs(self.scores["anomaly_score"])
            if self.left < _EXPLAINED * score or best < _WORTH_NAMING * score:
                self._windows = []
                return
        else:
            self.alone = dict(zip(windows, scores, strict=True))
        sizes = [n_good[window.last] - n_good[window.first] for window in windows]
        enough = np.flatnonzero(lowered >= (_ALMOST * best if best > 0 else best))
        chosen = min(enough, key=lambda i: (sizes[i], i))
        self.named.append(windows[chosen])
        self.left = scores[chosen]

    def merge(self, residual, weight, wavelength):
        """Merge named features of one sign that are neighbours; return the windows that this made."""
        gap = _NEIGHBOURS / (SPEED_OF_LIGHT * np.log(wavelength[1] / wavelength[0]))
        merged = []
        for window in self.named:
            for i, other in enumerate(merged):
                is_near = window.first - other.last <= gap and other.first - window.last <= gap
                signs = {(residual * weight)[w.first : w.last].sum() > 0 for w in (window, other)}
                if is_near and len(signs) == 1 and window.kind == other.kind == "feature":
                    merged[i] = Window(min(window.first, other.first), max(window.last, other.last))
                    break
            else:
                merged.append(window)
        made = [window for window in merged if window not in self.named]
        self.named = merged
        return made


def _residuals(model, flux, ivar):
    flux_model, ivar_model = reconstruct(model, flux, ivar)
    is_good = ivar > 0
    return np.where(is_good, flux - flux_model, 0), np.where(is_good, ivar_model, 0)


def _rows(rescorer, targetid, one, residual, weight, attribution):
    """Return one object's rows of the table."""
    wavelength = rescorer.wavelength
    residual, weight = residual.astype("float64"), weight.astype("float64")
    excess = np.where(weight > 0, residual**2 * weight - 1, 0)
    named = [max(excess[w.first : w.last].sum(), 0) for w in one.named]
    # an object without an excess beyond the noise of χ² has no shares of it
    total_excess = max(excess.sum(), sum(named)) if excess.sum() > np.sqrt(2 * (weight > 0).sum()) else np.nan
    positive = np.maximum(attribution, 0)
    half_pixel = np.sqrt(wavelength[1] / wavelength[0])
    rows = []
    for i, (window, own) in enumerate(zip(one.named, named, strict=True)):
        inside = slice(window.first, window.last)
        place = name_region(window, residual, weight, one.scores, wavelength)
        low, high = wavelength[window.first] / half_pixel, wavelength[window.last - 1] * half_pixel
        score_without = one.alone[window]
        row = {
            "targetid": targetid,
            "region": i + 1,
            **place._asdict(),
            "velocity_width": SPEED_OF_LIGHT * np.log(high / low),
            "wavelength_min": low,
            "wavelength_max": high,
            "significance": (residual * weight)[inside].sum() / np.sqrt(max(weight[inside].sum(), 1e-12)),
            "chi2_share": 100 * own / total_excess,
            "attribution_share": 100 * positive[inside].sum() / max(positive.sum(), 1e-12),
            "score_without": score_without,
            "rank_without": int(rescorer.scale.rank_of(score_without)),
        }
        rows.append(row | {"text": _text(row)})
    return rows


def _text(row):
    """Put a region into words."""
    between = f"{row['wavelength_min']:,.0f}–{row['wavelength_max']:,.0f} Å"
    words = {"weak line": f"{row['line']} emission weaker than the survey's", "part": f"all of {between}"}
    if row["what"] in words:
        where = words[row["what"]]
    elif row["line"]:
        step = 100 if row["velocity_err"] >= 100 else 10
        velocity, error = (step * round(row[name] / step) for name in ("velocity", "velocity_err"))
        where = f"{row['what']} at {_signed(velocity)} ± {max(error, step):,} km/s from {row['line']}"
    else:
        where = f"{row['what']} at {between}"
    share = "" if np.isnan(row["chi2_share"]) else f", {row['chi2_share']:.0f} % of the excess χ²"
    return f"{where}{share}; without it rank {row['rank_without']:,}"


def _signed(velocity):
    return f"{velocity:+,}".replace("-", "\N{MINUS SIGN}")
