"""Stream survey files of any number into one spectra store, and account for every row."""

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from astrolab.readers import desi, sdss
from astrolab.readers.blocks import PixelBlocks, result_or_error
from astrolab.readers.files import BadFileError, find_files
from astrolab.readers.fits import open_fits
from astrolab.readers.lazy import spectra_dataset
from astrolab.stores.append import ChunkWriter
from astrolab.stores.publish import publishing
from astrolab.stores.spectra import CHUNK_SIZE, add_array, create_store, finish_store, open_spectra

READERS = {"desi": desi, "sdss": sdss}
_N_THREADS = 4


class IngestError(ValueError):
    """No row could be stored, or not all of them where that was asked for.

    Attributes
    ----------
    report : IngestReport
        What was found, with every quarantine record.
    """

    def __init__(self, message, report):
        super().__init__(message, report)
        self.report = report

    def __str__(self):
        return self.args[0]


@dataclass
class IngestReport:
    """What came of an ingest: rows in = rows out + rows quarantined.

    Attributes
    ----------
    survey : str
        Whose files they were.
    store_path : str
        The store.
    rows_in : int
        Rows that the files hold by their headers; a file whose rows cannot be counted is one row.
    rows_out : int
        Rows in the store, counted in the store.
    rows_quarantined : int
        Rows set aside.
    n_files, n_companion_files : int
        Files with spectra, good or bad; files that go with them, such as redrock's.
    n_files_without_checksum : int
        Files in whose data a flipped bit could not be seen.
    is_simulated : bool
        One of the files, or more, says that it holds no observations.
    quarantined : list of dict
        ``path``, ``n_rows``, ``targetid`` (None for a whole file), ``code``, ``reason``, ``sha256`` (of a whole file
        that is local and can be read, else None) and ``time`` (UTC) of each file or row set aside.
    """

    survey: str
    store_path: str
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    n_files: int = 0
    n_companion_files: int = 0
    n_files_without_checksum: int = 0
    is_simulated: bool = False
    quarantined: list = field(default_factory=list)

    @property
    def is_complete(self):
        """Every row is accounted for."""
        return self.rows_in == self.rows_out + self.rows_quarantined

    def to_json(self):
        """Return the report as JSON text.

        Returns
        -------
        str
        """
        return json.dumps(asdict(self), indent=1)

    def quarantine(self, path, code, reason, n_rows=1, targetid=None):
        """Set rows aside, with the reason.

        Parameters
        ----------
        path : str
            The file.
        code : str
            One word for machines.
        reason : str
            One sentence for people.
        n_rows : int, optional
            How many rows.
        targetid : int, optional
            Whose, when it is one row.
        """
        record = {"path": path, "n_rows": n_rows, "targetid": targetid, "code": code, "reason": reason}
        time = datetime.now(UTC).isoformat(timespec="seconds")
        self.quarantined.append({**record, "sha256": _sha256(path) if targetid is None else None, "time": time})
        self.rows_quarantined += n_rows


def ingest_survey(survey, sources, out_path, *, is_strict=False, chunk_size=CHUNK_SIZE, overwrite=False, progress=True):
    """Read survey files into one spectra store, sorted by targetid; set bad files and rows aside with a reason.

    Memory is bounded by a few chunks and files, and the columns, whatever the number of files. Nothing stands at
    `out_path` until the store is complete.

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
        If no row is good, or `is_strict` and something is not; its ``report`` says what.
    StoreError
        If there is something at `out_path`, or it cannot be written.

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
    with publishing(out_path, overwrite=overwrite) as folder:
        columns, blocks = _plan(reader, files, report, progress)
        group = create_store(folder)
        kept, snr = _write_pixels(group, reader, columns, blocks, report, chunk_size, progress)
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


def _plan(reader, files, report, progress):
    """Read headers and columns of all files: the rows that may be stored, sorted by targetid, and where they are."""
    parts, blocks = [], []
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(_N_THREADS)
        stack.callback(pool.shutdown, cancel_futures=True)
        found = pool.map(lambda file: result_or_error(reader.read_columns, file), files)
        for file, rows in zip(files, tqdm(found, "files", len(files), disable=not progress), strict=True):
            if rows is None:
                report.n_companion_files += 1
                continue
            report.n_files += 1
            if isinstance(rows, BadFileError):
                n_rows = _stated_rows(file)
                report.rows_in += n_rows
                report.quarantine(file, rows.code, _reason(rows, file), n_rows)
                continue
            report.n_files_without_checksum += not rows.has_checksum
            report.is_simulated |= rows.is_simulated
            parts.append(_rows_with_place(reader, file, rows, blocks))
            report.rows_in += len(rows.columns["targetid"])
    if not parts:
        return {"targetid": np.empty(0, np.int64), "_block": np.empty(0, int), "_row": np.empty(0, int)}, blocks
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["targetid"], kind="stable")
    return {name: values[order] for name, values in columns.items()}, blocks


def _rows_with_place(reader, file, rows, blocks):
    here = reader.plan_blocks(file, rows)
    sizes = [block[0] for block in here]
    first = len(blocks)
    blocks.extend(here)
    place = {
        "_block": np.repeat(np.arange(first, first + len(here)), sizes),
        "_row": np.concatenate([np.arange(size) for size in sizes]) if sizes else np.empty(0, int),
    }
    return {**rows.columns, **place}


def _write_pixels(group, reader, columns, blocks, report, chunk_size, progress):
    """Write flux and ivar of the good rows, chunk by chunk; return which rows they are, and their S/N."""
    n_rows, n_pixels = len(columns["targetid"]), len(reader.WAVELENGTH)
    shape = np.broadcast_to(np.float32(0), (n_rows, n_pixels))
    variables = spectra_dataset(shape, shape, reader.WAVELENGTH, {})
    writer = ChunkWriter([add_array(group, name, variables[name], chunk_size) for name in ("flux", "ivar")])
    kept, snr, stored = [np.empty(0, int)], [np.empty(0, np.float32)], {}
    with PixelBlocks(reader, blocks) as source, tqdm(total=n_rows, desc="rows", disable=not progress) as bar:
        for start in range(0, n_rows, chunk_size):
            some = slice(start, min(start + chunk_size, n_rows))
            block, row = columns["_block"][some], columns["_row"][some]
            pixels, some_snr, reasons = source.gather(block, row)
            good = _set_aside(columns["targetid"][some], block, reasons, blocks, stored, report)
            writer.append(pixels if good.all() else pixels[:, good])
            kept.append(start + np.flatnonzero(good))
            snr.append(some_snr[good])
            bar.update(len(good))
        for path, (error, n_bad) in source.failed.items():
            report.quarantine(path, error.code, _reason(error, path), n_bad)
    writer.close()
    return np.concatenate(kept), np.concatenate(snr)


def _set_aside(targetid, block, reasons, blocks, stored, report):
    """Say which rows are good, and quarantine the others; rows of a file that failed are counted with the file."""
    good = np.ones(len(targetid), bool)
    for i, (identity, number) in enumerate(zip(targetid.tolist(), block.tolist(), strict=True)):
        path = blocks[number][1]
        if i in reasons:
            good[i] = False
            if reasons[i]:
                report.quarantine(path, "bad_pixels", reasons[i], targetid=identity)
        elif identity == 0:
            good[i] = False
            report.quarantine(path, "bad_targetid", "TARGETID is 0, which no object has", targetid=0)
        elif stored.get("targetid") == identity:
            good[i] = False
            reason = f"targetid {identity} stands in {stored['path']} already, and that spectrum is kept"
            report.quarantine(path, "duplicate", reason, targetid=identity)
        else:
            stored.update(targetid=identity, path=path)
    return good


def _count_rows(folder, group):
    """Count the rows of the store that was written, and see that all its chunks are there."""
    for array in (group["flux"], group["ivar"]):
        if array.nchunks_initialized != array.nchunks:
            return 0
    return open_spectra(folder).sizes["object"]


def _stated_rows(path):
    """Return the rows that a bad file states where they can be counted, else one."""
    try:
        with open_fits(path) as file:
            return file.n_rows("FIBERMAP")
    except BadFileError:
        return 1


def _reason(error, path):
    return error.reason if error.path == path else f"goes with {error}"


def _sha256(path):
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


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
