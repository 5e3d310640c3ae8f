"""The pixels of an ingest: from the files into the store, chunk by chunk, each chunk remembered as soon as it is in."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import zarr
from tqdm.auto import tqdm
from zarr.storage import LocalStore

from astrolab.ingest.plan import reason_of
from astrolab.ingest.report import IngestError
from astrolab.readers.blocks import PixelBlocks
from astrolab.readers.files import BadFileError
from astrolab.readers.lazy import spectra_dataset
from astrolab.stores.append import ChunkWriter
from astrolab.stores.spectra import add_array, create_store, whole_chunks

_PIXELS = ("flux", "ivar")


def write_pixels(place, reader, columns, blocks, report, chunk_size, progress):
    """Write flux and ivar of the good rows, chunk by chunk, going on from what is finished.

    Parameters
    ----------
    place : Place
        Where; its ``begin`` has been called.
    reader : module
        The survey's.
    columns : dict of str to numpy.ndarray, shape (n_rows,)
        As `plan_rows` gives them.
    blocks : list of tuple
        Likewise.
    report : IngestReport
        Is told of rows set aside.
    chunk_size : int
        Rows a chunk.
    progress : bool
        Show a progress bar.

    Returns
    -------
    group : zarr.Group
        The store.
    kept : numpy.ndarray of int
        The rows that are in it.
    snr : numpy.ndarray, float32
        Their S/N.
    """
    n_rows = len(columns["targetid"])
    group, done = _open_group(place, reader, n_rows, chunk_size, progress)
    kept = [np.empty(0, int), *(arrays["kept"] for arrays, _ in done)]
    snr = [np.empty(0, np.float32), *(arrays["snr"] for arrays, _ in done)]
    for _, about in done:
        report.add(about["quarantined"])
    report.rows_resumed = min(len(done) * chunk_size, n_rows)
    bar = tqdm(total=n_rows, initial=report.rows_resumed, desc="rows", unit="row", disable=not progress, mininterval=1)
    # while one chunk is written, the next is read
    with PixelBlocks(reader, blocks) as source, ThreadPoolExecutor(1) as pool, bar:
        writing = pool.submit(bool)
        writer = _writer(group, source, columns, np.concatenate(kept), chunk_size, report)
        if done:  # after what was read again: a file may have failed only later
            source.failed.update({path: (BadFileError(*error), n) for path, error, n in done[-1][1]["failed"]})
        stored = _last_stored(columns["targetid"], columns["_block"], blocks, np.concatenate(kept))
        for start in range(report.rows_resumed, n_rows, chunk_size):
            some = slice(start, min(start + chunk_size, n_rows))
            block, row = columns["_block"][some], columns["_row"][some]
            some_snr, reasons = source.gather(block, row, writer.room(len(row)))
            n_before = len(report.quarantined)
            good = _set_aside(columns["targetid"][some], block, reasons, blocks, stored, report)
            kept.append(start + np.flatnonzero(good))
            snr.append(some_snr[good])
            failed = [[path, (e.path, e.code, e.reason), n] for path, (e, n) in source.failed.items()]
            about = {"quarantined": report.quarantined[n_before:], "failed": failed}
            arrays = {"kept": kept[-1], "snr": snr[-1]}
            writing.result()
            writing = pool.submit(_store, writer, writer.keep(good), place, start // chunk_size, arrays, about)
            n_bad = report.rows_quarantined + sum(n for *_, n in failed)
            bar.set_postfix(quarantined=n_bad, refresh=False)
            bar.update(len(good))
        writing.result()
        for path, (error, n_bad) in source.failed.items():
            report.quarantine(path, error.code, reason_of(error, path), n_bad)
    writer.close()
    return group, np.concatenate(kept), np.concatenate(snr)


def _store(writer, chunk, place, number, arrays, about):
    """Write a chunk where one is whole, and then remember what came of the rows that filled it."""
    if chunk is not None:
        writer.write(chunk)
    place.add(number, arrays, **about)


def _open_group(place, reader, n_rows, chunk_size, progress):
    """Return the store to write, and what came of the chunks of rows that are in it already, whole."""
    shape = np.broadcast_to(np.float32(0), (n_rows, len(reader.WAVELENGTH)))
    done = place.finished()
    if done:
        with suppress(OSError, ValueError, KeyError):  # a store that does not open is made again
            return _reopen(place, shape.shape, chunk_size, done, progress)
    place.clear()
    group = create_store(place.store)
    variables = spectra_dataset(shape, shape, reader.WAVELENGTH, {})
    for name in _PIXELS:
        add_array(group, name, variables[name], chunk_size)
    return group, []


def _reopen(place, shape, chunk_size, done, progress):
    """Open a store as it was before its end was begun, and forget the rows that damaged chunks held."""
    for path in place.store.rglob("*.partial"):  # what zarr was writing
        path.unlink()
    group = zarr.open_group(LocalStore(place.store), mode="r+", zarr_format=3)
    for name, array in group.arrays():
        if name in _PIXELS:
            array.resize(shape)
        else:
            del group[name]
    n_kept = np.cumsum([len(arrays["kept"]) for arrays, _ in done])
    n_chunks = n_kept[-1] // chunk_size
    whole = whole_chunks(place.store, _PIXELS, n_chunks)
    bar = tqdm(whole, "verifying", n_chunks, disable=not progress, unit="chunk", mininterval=1)
    n_whole = sum(1 for _ in bar)
    if n_whole < n_chunks:
        done = done[: np.searchsorted(n_kept, n_whole * chunk_size, side="right")]
    return group, done


def _writer(group, source, columns, kept, chunk_size, report):
    """Return a writer that goes on after the rows kept; those that do not fill a chunk yet are read again."""
    n_written = len(kept) // chunk_size * chunk_size
    writer = ChunkWriter([group[name] for name in _PIXELS], n_written)
    rows = kept[n_written:]
    if len(rows):
        _, reasons = source.gather(columns["_block"][rows], columns["_row"][rows], writer.room(len(rows)))
        if reasons:
            raise IngestError("a file that was read before cannot be read any more; run the same again.", report)
        writer.keep(np.ones(len(rows), bool))
    return writer


def _last_stored(targetid, block, blocks, kept):
    if not len(kept):
        return {}
    return {"targetid": int(targetid[kept[-1]]), "path": blocks[block[kept[-1]]][1]}


def _set_aside(targetid, block, reasons, blocks, stored, report):
    """Say which rows are good, and quarantine the others; rows of a file that failed are counted with the file."""
    good = np.ones(len(targetid), bool)
    doubtful = (targetid == 0) | (targetid == np.append(stored.get("targetid", 0), targetid[:-1]))
    doubtful[list(reasons)] = True
    for i in np.flatnonzero(doubtful):
        path, identity = blocks[block[i]][1], int(targetid[i])
        last = _last_stored(targetid, block, blocks, np.flatnonzero(good[:i])) or stored
        good[i] = False
        if i in reasons:
            if reasons[i]:
                report.quarantine(path, "bad_pixels", reasons[i], targetid=identity)
        elif identity == 0:
            report.quarantine(path, "bad_targetid", "TARGETID is 0, which no object has", targetid=0)
        elif last.get("targetid") == identity:
            reason = f"targetid {identity} stands in {last['path']} already, and that spectrum is kept"
            report.quarantine(path, "duplicate", reason, targetid=identity)
        else:
            good[i] = True
    stored.update(_last_stored(targetid, block, blocks, np.flatnonzero(good)))
    return good
