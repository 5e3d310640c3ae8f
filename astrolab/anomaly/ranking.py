"""The ranking: scores of every object, calibrated, combined, sorted, with reasons."""

import numpy as np
import pandas as pd

from astrolab.anomaly.calibration import equal_tails, peer_scores
from astrolab.anomaly.reasons import describe_reasons
from astrolab.anomaly.scores import BAND_WIDTHS, block_columns, isolation_score, raw_scores, reconstruct
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.schema import OBJECT, WAVELENGTH_REST, SchemaError, check_spectra, spectral_dim

# an object with fewer good pixels on the rest grid is not ranked
N_GOOD_MIN = 50

_SCORES = ("score_chi2", "score_band", "score_isolation")
_CARRIED = ("targetid", "survey", "program", "ra", "dec", "redshift", "redshift_warning", "spectype")


def score_anomalies(model, spectra, *, seed=0):
    """Score and rank every object.

    Three scores, each in robust standard deviations above the object's peers (the objects nearest in redshift, S/N and
    number of good pixels): ``score_chi2`` (reconstruction χ²), ``score_band`` (the strongest residual in windows of 1,
    4, 16 and 64 rest-grid pixels) and ``score_isolation`` (isolation forest on the latent vectors). ``anomaly_score``
    is their sum over √3 (Stouffer et al. 1949): as wide as one of them where the three are independent.

    Parameters
    ----------
    model : torch.nn.Module
        Trained on the same grid.
    spectra : xarray.Dataset
        Normalised spectra, dims ``(object, wavelength_rest)``. Lazy spectra are read and scored chunk by chunk on the
        Dask cluster in use; only the scores are gathered. Pixels with ``ivar == 0`` do not count.
    seed : int, optional
        Seed of the isolation forest and of the reference sample of peers.

    Returns
    -------
    ranking : pandas.DataFrame
        One row a ranked object, sorted by ``anomaly_rank`` (1 = strangest; equal scores by targetid), with targetid,
        survey, ra, dec (deg), redshift, spectype, snr, anomaly_score, anomaly_rank, reasons, the three scores,
        ``band_*`` (where the strongest residual is) and ``latent_i``. No score is NaN.
    not_ranked : pandas.DataFrame
        ``targetid`` and ``reason`` of each object without a place in the ranking: no redshift, fewer than 50 good
        pixels on the rest grid, or scores that are not finite.

    Raises
    ------
    SchemaError
        If the spectra are not in the rest frame or not on the model's grid, or that has fewer than 64 pixels.
    ValueError
        If no object can be ranked.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> ranking, not_ranked = al.score_anomalies(al.VAE(n_wavelength=100), rest)
    >>> len(ranking) + len(not_ranked)
    40
    """
    _check_grid(model, spectra)
    table = pd.concat([_carried(spectra), raw_scores(model, spectra)], axis=1)
    if "snr" not in table:
        table["snr"] = table["snr_rest"]
    reason = _why_not_ranked(table)
    not_ranked = pd.DataFrame({"targetid": table["targetid"], "reason": reason})[reason != ""]
    # sorted by targetid, so that nothing below depends on the order of the input
    table = table[reason == ""].sort_values("targetid", ignore_index=True)
    if table.empty:
        counts = "; ".join(f"{reason}: {n}" for reason, n in not_ranked["reason"].value_counts().items())
        raise ValueError(f"none of {len(not_ranked)} objects can be ranked ({counts}).")
    _add_scores(table, spectra[WAVELENGTH_REST].values, model.config["n_latent"], seed)
    table = table.sort_values(["anomaly_score", "targetid"], ascending=[False, True], ignore_index=True)
    table["anomaly_rank"] = np.arange(1, len(table) + 1, dtype="int32")
    table["reasons"] = describe_reasons(table)
    not_ranked = not_ranked.sort_values("targetid", ignore_index=True)
    return table[_column_order(table)], not_ranked


def rank_anomalies(model, spectra, *, n_top=5_000, seed=0):
    """Rank every object and return the strangest with their spectra.

    Parameters
    ----------
    model : torch.nn.Module
        Trained on the same grid.
    spectra : xarray.Dataset
        Normalised spectra, dims ``(object, wavelength_rest)``; lazy or in memory. Every object is scored on the Dask
        cluster in use, however many there are.
    n_top : int, optional
        How many of the strangest to return with their spectra, in memory. The table of all is `score_anomalies`.
    seed : int, optional
        As in `score_anomalies`.

    Returns
    -------
    xarray.Dataset
        The `n_top` strangest in order of rank (object 0 is the strangest) with ``flux``, ``ivar``, ``flux_model``
        (dims ``(object, wavelength_rest)``), ``latent`` (``(object, latent_dim)``), and along ``object`` the columns of
        `score_anomalies`. Attributes ``n_ranked`` and ``n_not_ranked`` count all objects.

    Raises
    ------
    SchemaError, ValueError
        As in `score_anomalies`.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> ranked = al.rank_anomalies(al.VAE(n_wavelength=100), rest, n_top=5)
    >>> ranked.anomaly_rank.values
    array([1, 2, 3, 4, 5], dtype=int32)
    """
    ranking, not_ranked = score_anomalies(model, spectra, seed=seed)
    return attach_spectra(model, spectra, ranking.head(n_top), n_ranked=len(ranking), n_not_ranked=len(not_ranked))


def attach_spectra(model, spectra, ranking, **attrs):
    """Return the spectra of the objects of a ranking, in its order, with its columns and the reconstruction.

    Parameters
    ----------
    model : torch.nn.Module
        The model that ranked them.
    spectra : xarray.Dataset
        The spectra that were ranked.
    ranking : pandas.DataFrame
        Some rows of what `score_anomalies` gave.
    **attrs
        Attributes to add.

    Returns
    -------
    xarray.Dataset
        As `rank_anomalies` describes.

    Raises
    ------
    ValueError
        If a ranked object is not among the spectra.
    """
    index = pd.Index(spectra["targetid"].values).get_indexer(ranking["targetid"])
    if (index < 0).any():
        unknown = ranking["targetid"].to_numpy()[index < 0]
        raise ValueError(
            f"targetid {unknown[0]} of the ranking is not among the spectra ({len(unknown)} are not), expected the "
            "spectra that were ranked."
        )
    # read in the order of the store, then put in the order of the ranking
    top = spectra.isel({OBJECT: np.sort(index)}).compute()
    top = top.isel({OBJECT: np.argsort(np.argsort(index))})
    flux_model = reconstruct(model, top["flux"].values, top["ivar"].values)
    latent = ranking[[f"latent_{i}" for i in range(model.config["n_latent"])]].to_numpy("float32")
    columns = {
        name: (OBJECT, ranking[name].to_numpy())
        for name in ranking
        if name not in top.coords and not name.startswith("latent_")
    }
    return (
        top.assign_coords(columns)
        .assign(flux_model=((OBJECT, WAVELENGTH_REST), flux_model, top["flux"].attrs))
        .assign(latent=((OBJECT, "latent_dim"), latent))
        .assign_attrs(attrs)
    )


def _add_scores(table, wavelength, n_latent, seed):
    """Add calibrated scores, their combination and where the strongest residual is, in place."""
    latent = table[[f"latent_{i}" for i in range(n_latent)]].to_numpy()
    bands = table[[f"band_{width}" for width in BAND_WIDTHS]].to_numpy()
    raw = {"score_chi2": table["log_chi2"], "score_isolation": isolation_score(latent, seed)}
    n_single = len(raw)
    raw |= {f"score_band_{width}": np.log1p(np.abs(table[f"band_{width}"])) for width in BAND_WIDTHS}
    matched = np.column_stack([table["redshift"], table["snr_rest"], table["n_good"]])
    calibrated = equal_tails(peer_scores(np.column_stack(list(raw.values())), matched, seed))
    best = np.argmax(calibrated[:, n_single:], axis=1)
    rows, widths = np.arange(len(table)), np.array(BAND_WIDTHS)[best]
    first = table[[f"band_at_{width}" for width in BAND_WIDTHS]].to_numpy()[rows, best].astype(int)
    for j, name in enumerate(list(raw)[:n_single]):
        table[name] = calibrated[:, j]
    table["score_band"] = calibrated[:, n_single:].max(axis=1)
    table["chi2"] = np.exp(table["log_chi2"])
    table["band_sigma"] = bands[rows, best]
    table["band_wavelength"] = 0.5 * (wavelength[first] + wavelength[first + widths - 1])
    table["band_width"] = widths * SPEED_OF_LIGHT * np.log(wavelength[-1] / wavelength[0]) / (len(wavelength) - 1)
    table[list(_SCORES)] = table[list(_SCORES)].astype("float32")
    table["anomaly_score"] = table[list(_SCORES)].sum(axis=1) / np.float32(len(_SCORES) ** 0.5)


def _check_grid(model, spectra):
    check_spectra(spectra)
    if spectral_dim(spectra) != WAVELENGTH_REST:
        raise SchemaError(
            "the spectra are in the observed frame, expected the rest frame: to_restframe(spectra, grid)."
        )
    n_wavelength = model.config["n_wavelength"]
    if spectra.sizes[WAVELENGTH_REST] != n_wavelength:
        raise SchemaError(
            f"the spectra have {spectra.sizes[WAVELENGTH_REST]} pixels, the model expects {n_wavelength}; "
            "bring them onto the model's rest grid with to_restframe."
        )
    if n_wavelength < max(BAND_WIDTHS):
        raise SchemaError(
            f"the rest grid has {n_wavelength} pixels, expected at least {max(BAND_WIDTHS)}, the widest band that is "
            "scored; take a finer rest_grid."
        )


def _carried(spectra):
    names = [name for name in (*_CARRIED, "snr") if name in spectra.coords]
    table = pd.DataFrame({name: spectra[name].values for name in names})
    return table.astype({name: "object" for name in names if spectra[name].dtype.kind not in "if"})


def _why_not_ranked(table):
    """Return the reason an object cannot be ranked, or an empty string."""
    redshift = table["redshift"].to_numpy()
    has_redshift = np.isfinite(redshift) & (redshift > -1)
    numbers = table.drop(columns=_CARRIED, errors="ignore").select_dtypes("number")
    return np.select(
        [~has_redshift, table["n_good"] < N_GOOD_MIN, ~np.isfinite(numbers).all(axis=1)],
        [
            "no redshift was measured",
            f"fewer than {N_GOOD_MIN} good pixels on the rest grid",
            "the scores are not finite",
        ],
        "",
    )


def _column_order(table):
    first = [*_CARRIED, "snr", "anomaly_score", "anomaly_rank", "reasons", *_SCORES]
    rest = ["chi2", "n_good", "snr_rest", "band_sigma", "band_wavelength", "band_width"]
    n_latent = sum(name.startswith("latent_") for name in table)
    return [name for name in [*first, *rest, *block_columns(n_latent)[-n_latent:]] if name in table]
