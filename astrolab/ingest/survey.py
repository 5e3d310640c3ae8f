"""Stream survey files of any number into one spectra store, and account for every row."""

from collections import Counter

import numpy as np

from astrolab.ingest.pixels import write_pixels
from astrolab.ingest.place import check_unchanged, file_states, holding_place
from astrolab.ingest.plan import plan_rows
from astrolab.ingest.report import IngestError, IngestReport
from astrolab.readers import desi, sdss
from astrolab.readers.files import find_files
from astrolab.readers.lazy import spectra_dataset
from astrolab.stores.memory import keep_memory
from astrolab.stores.publish import publishing
from astrolab.stores.spectra import CHUNK_SIZE, finish_store, open_spectra

READERS = {"desi": desi, "sdss": sdss}


def ingest_survey(
    survey,
    sources,
    out_path,
    *,
    is_strict=False,
    chunk_size=CHUNK_SIZE,
    overwrite=False,
    chunks_dir=None,
    progress=True,
):
    """Read survey files into one spectra store, sorted by targetid; set bad files and rows aside with a reason.

    Memory is bounded by a few chunks and files, and the columns, whatever the number of files. Nothing stands at
    `out_path` until the store is complete. After a kill, an interrupt or a full disk the same call goes on: headers are
    read again, pixels that are in the store are not. Where a file has changed meanwhile, it says so and begins again.

    Parameters
    ----------
    survey : {"desi", "sdss"}
        Whose files they are.
    sources : str, path-like, or list of these
        Files, folders (every FITS file below), globs or fsspec URLs.
    out_path : str or path-like
        The store to write.
    is_strict : bool, optional
        Raise an error when anything had to be set aside, after the good rows were stored.
    chunk_size : int, optional
        Objects a chunk of the store.
    overwrite : bool, optional
        Replace a store that is there.
    chunks_dir : path-like, optional
        Folder that keeps what is finished until the store is complete, on its file system; by default ``.NAME.partial``
        beside it. Without it, an ingest into a remote store begins again.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    IngestReport
        Rows in, out and quarantined, with a record of each file or row that was set aside. Of spectra with one
        targetid, the first good one in the order of the files is stored.

    Raises
    ------
    FileNotFoundError
        If there is no source.
    IngestError
        If no row is good, or a file changes while it is read, or `is_strict` and something is not; its ``report`` says
        what.
    StoreError
        If there is something at `out_path`, or it cannot be written, or another process writes it.

    Examples
    --------
    >>> import astrolab as al
    >>> report = al.ingest_survey("sdss", "spectra/", "sdss.zarr")  # doctest: +SKIP
    >>> report.rows_in == report.rows_out + report.rows_quarantined  # doctest: +SKIP
    True
    """
    if survey not in READERS:
        raise ValueError(f"survey is '{survey}', expected one of {', '.join(READERS)}.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected a positive number of objects.")
    reader = READERS[survey]
    report = IngestReport(survey, str(out_path))
    files = find_files(sources)
    keep_memory()
    with (
        holding_place(out_path, chunks_dir) as place,
        publishing(out_path, overwrite=overwrite, keep_dir=place.store) as folder,
    ):
        states = file_states(files)
        columns, blocks = plan_rows(reader, files, report, progress)
        place.begin(states, (survey, chunk_size, columns, blocks), -(-len(columns["targetid"]) // chunk_size))
        group, kept, snr = write_pixels(place, reader, columns, blocks, report, chunk_size, progress)
        check_unchanged(states, report)
        if not len(kept):
            raise IngestError(_nothing_left(sources, report), report)
        columns = {name: values[kept] for name, values in columns.items() if not name.startswith("_")}
        columns["snr"] = snr
        empty = np.broadcast_to(np.float32(0), (len(kept), len(reader.WAVELENGTH)))
        stored = spectra_dataset(empty, empty, reader.WAVELENGTH, columns)
        stored.attrs.update({"is_simulated": 1} if report.is_simulated else {})
        finish_store(group, stored, _provenance(report, sources))
        report.rows_out = _count_rows(folder, group)
        if not report.is_complete:
            raise IngestError(
                f"{report.rows_in} rows in are not {report.rows_out} out and {report.rows_quarantined} set aside, "
                "so nothing was stored: please report this",
                report,
            )
    if is_strict and report.quarantined:
        first = report.quarantined[0]
        raise IngestError(
            f"{report.rows_quarantined} of {report.rows_in} rows were set aside, which is_strict does not allow (the "
            f"others are in '{out_path}'); first {first['path']}: {first['reason']}",
            report,
        )
    return report


def _count_rows(folder, group):
    """Count the rows of the store that was written, and see that all its chunks are there."""
    for array in (group["flux"], group["ivar"]):
        if array.nchunks_initialized != array.nchunks:
            return 0
    return open_spectra(folder).sizes["object"]


def _nothing_left(sources, report):
    if not report.quarantined:
        return f"'{sources}' holds no {report.survey} spectrum, so nothing was stored."
    first = report.quarantined[0]
    return f"no row of {report.n_files} files could be stored; first {first['path']}: {first['reason']}"


def _provenance(report, sources):
    return {
        "survey": report.survey,
        "sources": [str(source) for source in (sources if isinstance(sources, (list, tuple)) else [sources])],
        "n_files": report.n_files,
        "n_files_without_checksum": report.n_files_without_checksum,
        "rows_in": report.rows_in,
        "rows_quarantined": report.rows_quarantined,
        "quarantined_by_code": dict(Counter(record["code"] for record in report.quarantined)),
    }
