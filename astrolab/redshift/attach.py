"""Redshifts that were measured here, put in the place of those that spectra came with."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from astrolab.redshift.classify import WARNINGS
from astrolab.schema import COLUMNS, OBJECT, SchemaError, check_spectra, check_targetid
from astrolab.selection import keep_objects

_MEASURED = ("spectype", "redshift", "redshift_err", "redshift_warning")


def attach_redshifts(spectra, path=None):
    """Give spectra the classes and redshifts that `classify_spectra` measured, and say which have no good one.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in the observed frame, lazy or in memory, with redshifts of their own or NaN.
    path : path-like, optional
        ``redshifts.parquet`` of the template ``classify_spectra``; None leaves the spectra as they are.

    Returns
    -------
    spectra : xarray.Dataset
        The objects with a good redshift, in their order: it is finite and ``redshift_warning`` is 0. `spectype`,
        `redshift`, `redshift_err` and `redshift_warning` are the table's, joined by `targetid`.
    left_out : pandas.DataFrame
        ``targetid`` and ``reason`` of each of the others: not in the table, or its warnings by name.

    Raises
    ------
    SchemaError
        If the table lacks a column, its targetid is no int64, or stands in it twice.
    ValueError
        If it is no Parquet file, or no object has a good redshift, with the counts of the reasons.

    Examples
    --------
    >>> import astrolab as al, tempfile
    >>> spectra = al.simulate_survey(4, seed=3, rare_fraction=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     al.save_table(al.classify_spectra(spectra), f"{folder}/redshifts.parquet")
    ...     measured, left_out = al.attach_redshifts(spectra, f"{folder}/redshifts.parquet")
    >>> measured.sizes["object"] + len(left_out)
    4
    """
    check_spectra(spectra)
    targetid = spectra["targetid"].values
    if path is None:
        return spectra, _left_out(targetid[:0], np.array([], "U1"))
    table = _read(path)
    place = pd.Index(table["targetid"]).get_indexer(targetid)
    is_there = place >= 0
    reason = np.full(len(place), "the table of redshifts has no row of it", object)
    reason[is_there] = _doubts(table)[place[is_there]]
    is_good = reason == ""
    left_out = _left_out(targetid[~is_good], reason[~is_good])
    if not is_good.any():
        counts = ", ".join(f"{n} × {why}" for why, n in left_out["reason"].value_counts().items())
        raise ValueError(
            f"none of {len(targetid)} objects has a good redshift in '{path}' ({counts or 'there are none'}); give the "
            "redshifts.parquet that classify_spectra made of this store."
        )
    found = table.iloc[place[is_good]]
    columns = {name: found[name].to_numpy(COLUMNS[name][0]) for name in _MEASURED if name != "spectype"}
    columns["spectype"] = np.asarray(found["spectype"], dtype=object).astype(str)
    columns = {name: (OBJECT, values, spectra[name].attrs) for name, values in columns.items()}
    return keep_objects(spectra, is_good).assign_coords(columns), left_out


def _read(path):
    try:
        names = pq.read_schema(path).names
        missing = [name for name in ("targetid", *_MEASURED) if name not in names]
        if missing:
            raise SchemaError(f"'{path}' has no column {missing[0]!r}, expected redshifts.parquet of classify_spectra.")
        table = pq.read_table(path, columns=["targetid", *_MEASURED]).to_pandas()
    except pa.ArrowInvalid as error:
        raise ValueError(f"'{path}' is no Parquet file, expected redshifts.parquet of classify_spectra.") from error
    check_targetid(table["targetid"], "redshifts")
    twice = table["targetid"][table["targetid"].duplicated()]
    if len(twice):
        raise SchemaError(f"targetid {twice.iloc[0]} stands twice in '{path}', expected one row an object.")
    return table


def _doubts(table):
    """Return, of each row, why its redshift is not good; empty where it is."""
    warning = table["redshift_warning"].to_numpy("int64")
    doubts = np.where(np.isfinite(table["redshift"]), "", "no redshift was measured").astype(object)
    for value in np.unique(warning[warning != 0]):
        bits = [name for name, bit in WARNINGS.items() if value & bit]
        doubts[warning == value] = f"its measured redshift is doubtful: {', '.join(bits) or value}"
    return doubts


def _left_out(targetid, reason):
    return pd.DataFrame({"targetid": targetid, "reason": reason.astype(str)})
