"""The plan of an ingest: which rows the files hold, where they are, and the order in which they are stored."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from tqdm.auto import tqdm

from astrolab.readers.blocks import result_or_error
from astrolab.readers.files import BadFileError
from astrolab.readers.fits import open_fits

_N_THREADS = 4


def plan_rows(reader, files, report, progress):
    """Read headers and columns of all files: the rows that may be stored, sorted by targetid, and where they are.

    Parameters
    ----------
    reader : module
        The survey's.
    files : list of str
        Paths or URLs.
    report : IngestReport
        Is told of rows and bad files.
    progress : bool
        Show a progress bar.

    Returns
    -------
    columns : dict of str to numpy.ndarray, shape (n_rows,)
        ``_block`` and ``_row`` say where the pixels of a row are.
    blocks : list of tuple
        ``(n_rows, path, start, stop)``.
    """
    parts, blocks = [], []
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(_N_THREADS)
        stack.callback(pool.shutdown, cancel_futures=True)
        found = pool.map(lambda file: result_or_error(reader.read_columns, file), files)
        bar = tqdm(found, "files", len(files), disable=not progress, unit="file", mininterval=1)
        for file, rows in zip(files, bar, strict=True):
            if rows is None:
                report.n_companion_files += 1
                continue
            report.n_files += 1
            if isinstance(rows, BadFileError):
                n_rows = _stated_rows(file)
                report.rows_in += n_rows
                report.quarantine(file, rows.code, reason_of(rows, file), n_rows)
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


def reason_of(error, path):
    """Return why a file cannot be used, and whose fault it is.

    Parameters
    ----------
    error : BadFileError
        What a reader raised.
    path : str
        The file that was read.

    Returns
    -------
    str
    """
    return error.reason if error.path == path else f"goes with {error}"


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


def _stated_rows(path):
    """Return the rows that a bad file states where they can be counted, else one."""
    try:
        with open_fits(path) as file:
            return file.n_rows("FIBERMAP")
    except BadFileError:
        return 1
