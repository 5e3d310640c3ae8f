"""Which objects of a survey to work on."""

import dask.array as da
import numpy as np
import pandas as pd

from astrolab.schema import OBJECT, check_spectra


def select_objects(spectra, *, spectype="QSO", redshift_min=0.0, redshift_max=10.0):
    """Select the objects to work on, and say of every other one why it is left out.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame, lazy or in memory.
    spectype : str, optional
        Class to keep (``"QSO"``, ``"GALAXY"``, ``"STAR"``); ``"any"`` keeps all.
    redshift_min, redshift_max : float, optional
        Keep redshifts in this closed interval.

    Returns
    -------
    selected : xarray.Dataset
        The objects kept, in their order.
    left_out : pandas.DataFrame
        ``targetid`` and ``reason`` of each of the others: not a target (a sky or broken fibre), no redshift, another
        class, a redshift outside the interval.

    Raises
    ------
    ValueError
        If nothing is left, with the counts of the reasons.

    Examples
    --------
    >>> import astrolab as al
    >>> selected, left_out = al.select_objects(al.simulate_survey(50, seed=0), redshift_min=0.5)
    >>> selected.sizes["object"] + len(left_out)
    50
    """
    check_spectra(spectra)
    redshift = spectra["redshift"].values
    classes = spectra["spectype"].values.astype(str)
    is_target = spectra["is_target"].values if "is_target" in spectra.coords else np.ones(len(redshift), bool)
    is_wrong = np.full(len(redshift), spectype != "any") & (classes != spectype)
    is_outside = (redshift < redshift_min) | (redshift > redshift_max)
    # words for those that are left out alone: of a survey's they would take a gigabyte
    kind = np.select([~is_target, ~np.isfinite(redshift), is_wrong, is_outside], [1, 2, 3, 4], 0)
    kinds = [
        "",
        "not a target: a sky, blank or broken fibre",
        "no redshift was measured",
        "",
        f"redshift is outside {redshift_min} to {redshift_max}",
    ]
    rows = np.flatnonzero(kind)
    reason, named = np.array(kinds, object)[kind[rows]], np.where(classes[rows] == "", "unknown", classes[rows])
    is_named = kind[rows] == 3
    reason[is_named] = "spectype is " + named[is_named].astype(object)
    left_out = pd.DataFrame({"targetid": spectra["targetid"].values[rows], "reason": reason.astype(str)})
    if len(left_out) == len(redshift):
        counts = ", ".join(f"{n} × {why}" for why, n in left_out["reason"].value_counts().items())
        raise ValueError(
            f"none of {len(redshift)} objects is a {spectype} at redshift {redshift_min} to {redshift_max} ({counts}); "
            'choose another spectype ("any" takes all) or interval'
            + (", or measure redshifts with classify_spectra." if np.isnan(redshift).any() else ".")
        )
    return keep_objects(spectra, kind == 0), left_out


def keep_objects(spectra, is_kept):
    """Keep some objects, in chunks of those that were in one chunk before.

    ``isel`` fills chunks of lazy spectra up from the next ones: every chunk of a survey is then read for two others,
    and as a rule sent from one worker to another.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame, lazy or in memory.
    is_kept : numpy.ndarray, shape (object,), bool
        Which.

    Returns
    -------
    xarray.Dataset
        These objects, in their order.

    Examples
    --------
    >>> import astrolab as al
    >>> survey = al.simulate_survey(50, seed=0, chunk_size=20)
    >>> keep_objects(survey, np.arange(50) % 2 == 0).flux.chunks[0]
    (10, 10, 5)
    """
    lazy = [name for name, array in spectra.data_vars.items() if array.chunks and array.dims[0] == OBJECT]
    if not lazy or not is_kept.any():
        return spectra.isel({OBJECT: is_kept})
    kept = {name: (spectra[name].dims, _keep_rows(spectra[name].data, is_kept), spectra[name].attrs) for name in lazy}
    return spectra.drop_vars(lazy).isel({OBJECT: is_kept}).assign(kept)


def _keep_rows(array, is_kept):
    n_rows, others = array.chunks[0], array.chunks[1:]
    parts = np.split(is_kept, np.cumsum(n_rows)[:-1])
    n_kept = [int(part.sum()) for part in parts]
    needed = np.flatnonzero(n_kept)
    mask = np.concatenate([parts[i] for i in needed]).reshape(-1, *[1] * len(others))
    return da.map_blocks(
        _rows_of_block,
        array.blocks[needed],
        da.from_array(mask, chunks=(tuple(n_rows[i] for i in needed), *[1] * len(others))),
        chunks=(tuple(n_kept[i] for i in needed), *others),
        dtype=array.dtype,
        meta=array._meta,
    )


def _rows_of_block(block, is_kept):
    return block if is_kept.all() else block[is_kept.ravel()]
