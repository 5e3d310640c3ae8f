"""One pass over a survey, chunk by chunk, that loses nothing: each chunk's result is a file as soon as it is there.

After a crash the same pass takes the files that verify and computes the others. A chunk that kills its workers is
computed again in a process of its own, where the rows that kill it are found and set aside.
"""

import queue
import time
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from dask._task_spec import Task
from dask.core import flatten, reverse_dict
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from distributed import CancelledError, KilledWorker, get_client
from distributed.comm import CommClosedError
from tqdm.auto import tqdm

from astrolab.schema import OBJECT, PIXEL_FAULTS
from astrolab.stores.chunks import SUFFIX, ChunkError, chunk_key, load_chunk, save_chunk
from astrolab.stores.isolate import compute_isolated
from astrolab.stores.memory import return_memory
from astrolab.stores.read_ahead import are_workers_here, find_reads

PATIENCE_SECONDS = 60  # without a worker; a killed one is back in a few
_CHECK_SECONDS = 2
# models travel in the graph, once: of what is larger than 10 MB, Dask would warn people who can do nothing about it
_LARGE_GRAPH = {"distributed.admin.large-graph-warning-threshold": "200MB"}
_RESUMABLE = "what is finished is kept: start a cluster, and run the same again."
SCHEDULER_GONE = f"the Dask scheduler went away; {_RESUMABLE}"


def whole_spectra(spectra, n_rows=1024):
    """Return flux and ivar as Dask arrays that are chunked alike, whole spectra in every chunk.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame; flux and ivar in memory or lazy, each in chunks of its own.
    n_rows : int, optional
        Spectra in a chunk where the flux is in memory.

    Returns
    -------
    flux, ivar : dask.array.Array, shape (object, n_wavelength)
    """
    flux, ivar = spectra["flux"].data, spectra["ivar"].data
    flux = flux.rechunk({1: -1}) if isinstance(flux, da.Array) else da.from_array(flux, chunks=(n_rows, -1))
    return flux, ivar.rechunk(flux.chunks) if isinstance(ivar, da.Array) else da.from_array(ivar, chunks=flux.chunks)


def map_chunks(function, *arrays, n_columns, dtype="float32", chunks_dir=None, **options):
    """Apply a function to every chunk of rows on the Dask cluster in use, and gather the results.

    Parameters
    ----------
    function : callable
        Of one block of each array and the options; gives an array of shape ``(n_rows, n_columns)``. The same input
        gives the same bits.
    *arrays : dask.array.Array, shape (n_rows, …)
        Chunked alike along the first dimension, and not along others.
    n_columns : int
        Columns of the result.
    dtype : str, optional
        Of the result.
    chunks_dir : path-like, optional
        Folder that keeps the result of each chunk in a file as soon as it is computed. What is there already, whole and
        made of the same input, options and code, is not computed again. The worker writes, or the client where the
        worker does not see the folder. Without it, nothing is kept.
    **options
        For the function; `dask.delayed` values travel once.

    Returns
    -------
    numpy.ndarray, shape (n_rows, n_columns)
        NaN in rows that were set aside because they kill the process that computes them.

    Raises
    ------
    ConnectionError
        If the scheduler goes away.
    OSError
        If a chunk's file cannot be written.
    """
    n_rows = arrays[0].chunks[0]
    shape = {"chunks": (n_rows, (n_columns,)), "dtype": dtype, "meta": np.empty((0, 0), dtype)}
    lazy = da.map_blocks(function, *arrays, **options, **shape)
    # filled as chunks come: pieces that are put together at the end are in memory twice
    result, ends = np.empty(lazy.shape, dtype), np.cumsum(n_rows)
    parts = [result[end - n : end] for end, n in zip(ends, n_rows, strict=True)]
    if chunks_dir is None:
        places, missing, progress = [None] * len(parts), list(range(len(parts))), {"delay": 2}
    else:
        places = _make_places(Path(chunks_dir).absolute(), lazy)
        missing = [i for i, place in enumerate(places) if not _take_kept(*place, parts[i])]
        progress = {"desc": Path(chunks_dir).name}
        keeping = dask.delayed([(str(path), key) for path, key in places], traverse=False)
        lazy = da.map_blocks(_compute_and_save, *arrays, function=function, places=keeping, **options, **shape)
    isolated = partial(_isolate, function, arrays, options, (n_columns, dtype))
    for i, values, about in _each_chunk(lazy, missing, isolated, total=len(parts), **progress):
        # the worker that made it may not see this folder
        if places[i] is not None and not places[i][0].is_file():
            save_chunk(places[i][0], {"values": values}, places[i][1], **about)
        parts[i][:] = values
    return result


def load_objects(spectra, is_chosen, *, desc=None):
    """Load some objects; each chunk that holds one of them is read once, and no other.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame, lazy or in memory.
    is_chosen : numpy.ndarray, shape (object,), bool
        Which.
    desc : str, optional
        What the progress bar says, which appears after two seconds.

    Returns
    -------
    xarray.Dataset
        These objects in memory, in their order; pixels are NaN in rows that were set aside because they kill the
        process that computes them.

    Raises
    ------
    ConnectionError
        If the scheduler goes away.
    """
    names = [name for name in ("flux", "ivar", PIXEL_FAULTS) if name in spectra]
    if not any(isinstance(spectra[name].data, da.Array) for name in names):
        return spectra.isel({OBJECT: is_chosen}).load()
    arrays = list(whole_spectra(spectra))
    n_rows = arrays[0].chunks[0]
    arrays += [da.asarray(spectra[name].data).rechunk((n_rows, -1)) for name in names[2:]]
    widths = [array.shape[1] for array in arrays]
    chosen = np.split(is_chosen, np.cumsum(n_rows)[:-1])
    n_chosen = tuple(int(one.sum()) for one in chosen)
    mask = da.from_array(is_chosen[:, None], chunks=(n_rows, 1))
    shape = {"chunks": (n_chosen, (sum(widths),)), "dtype": "float32", "meta": np.empty((0, 0), "float32")}
    lazy = da.map_blocks(_choose, mask, *arrays, **shape)
    result, ends = np.empty(lazy.shape, "float32"), np.cumsum(n_chosen)
    isolated = partial(_isolate, _side_by_side, arrays, {}, (sum(widths), "float32"))
    needed = [i for i, n in enumerate(n_chosen) if n]
    for i, values, about in _each_chunk(lazy, needed, isolated, total=len(needed), delay=2, desc=desc):
        result[ends[i] - n_chosen[i] : ends[i]] = values[chosen[i]] if about else values
    parts = dict(zip(names, np.split(result, np.cumsum(widths)[:-1], axis=1), strict=True))
    loaded = {name: (spectra[name].dims, part, spectra[name].attrs) for name, part in parts.items()}
    return spectra.drop_vars(names).isel({OBJECT: is_chosen}).load().assign(loaded)


def _each_chunk(lazy, numbers, isolated, *, total, **progress):
    """Compute chunks, and give number and values of each as it comes, and what is to be said of it."""
    return_memory()  # of what was done before; the workers need it now
    with tqdm(total=total, initial=total - len(numbers), unit="chunk", mininterval=1, **progress) as bar:
        for i, values in _as_they_come(lazy, numbers):
            about = {}
            if values is None:
                bar.set_postfix_str(f"chunk {i} kills its workers: its rows are computed one by one")
                values, about = isolated(i)
            yield i, values, about
            bar.update()
    _return_memory()


def _isolate(function, arrays, options, shape, number):
    values, bad_rows = compute_isolated(function, [array.blocks[number] for array in arrays], options, shape)
    return values, {"quarantined": bad_rows}


def _choose(is_chosen, *arrays):
    return _side_by_side(*(array[is_chosen[:, 0]] for array in arrays))


def _side_by_side(*arrays):
    return np.concatenate(arrays, axis=1, dtype="float32", casting="same_kind")


def _make_places(folder, lazy):
    """Return file and key of each chunk's result."""
    folder.mkdir(parents=True, exist_ok=True)
    n_chunks = lazy.numblocks[0]
    # a Dask name is the hash of all that leads to the array: store, selection, grid, weights, options
    return [(folder / f"{i:06d}-of-{n_chunks:06d}{SUFFIX}", chunk_key(lazy.name, i)) for i in range(n_chunks)]


def _return_memory():
    """Let the workers hand back what they kept between chunks: this process needs memory for what follows."""
    with suppress(ValueError, OSError):  # no cluster, or one that has just gone away: there is nothing to free
        get_client().run(return_memory, on_error="ignore")


def _take_kept(path, key, values):
    """Fill in the values of a chunk that was finished, or say that there are none; a file that fails is removed."""
    try:
        found = load_chunk(path, key)
    except ChunkError:
        found = None
    if found is None:
        path.unlink(missing_ok=True)
        return False
    values[:] = found[0]["values"]
    return True


def _compute_and_save(*blocks, function, places, block_id, **options):
    """In a worker, as one task: it never begins the next chunk before this one is on disk."""
    values = function(*blocks, **options)
    path, key = places[block_id[0]]
    if Path(path).parent.is_dir():
        save_chunk(path, {"values": values}, key)
    return values


def _one_task_each(lazy):
    """Return the chunks of an array as delayed values, all that one of them alone needs in a task of its own.

    Left to themselves, two workers read the two halves of a chunk, flux and ivar, and one half travels to the other.
    Chunks are computed in their order: Dask's own would be as good as random.
    """
    graph = dict(dask.optimize(lazy)[0].dask)
    needed_by = reverse_dict({key: node.dependencies for key, node in graph.items()})
    keys = list(flatten(lazy.__dask_keys__()))
    for key in keys:
        own, found = {key}, [key]
        while found:
            needed = graph[found.pop()].dependencies & graph.keys()  # what is persisted has no task any more
            found += [other for other in needed if other not in own and needed_by[other] <= own]
            own.update(found)
        graph[key] = Task.fuse(*(graph[other] for other in own))
        for other in own - {key}:
            del graph[other]
    last = {key: -i for i, key in enumerate(keys)}
    with dask.annotate(priority=lambda key: last.get(key, 1)):
        layers = HighLevelGraph.from_collections(lazy.name, graph)
    return [Delayed(key, layers, layer=lazy.name) for key in keys]


def _as_they_come(lazy, numbers):
    """Compute chunks and give the number and values of each as it comes; None for one that killed its workers."""
    every = _one_task_each(lazy)
    tasks = [every[i] for i in numbers]
    try:
        client = get_client()
    except ValueError:  # no cluster: this process's threads
        yield from zip(numbers, dask.compute(*tasks), strict=True)
        return
    with dask.config.set(_LARGE_GRAPH):
        futures = dict(zip(client.compute(tasks), numbers, strict=True))
    done = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(done.put)
    n_workers = sum(client.nthreads().values())
    # of the first, one for each worker, the reading has begun
    later = numbers[n_workers:] if are_workers_here(client) else []
    reads = find_reads(lazy) if later else []
    ahead = (reads[i] for i in later)
    try:
        _expect(ahead, n_workers)
        for _ in numbers:
            future = patiently(done.get, client)
            _expect(ahead, 1)
            yield futures[future], _result(future, client)
            future.release()
    finally:
        if client.status != "closed":  # it closes itself when it cannot reach its scheduler again
            client.cancel(list(futures))


def _expect(ahead, n_chunks):
    for read in chain.from_iterable(islice(ahead, n_chunks)):
        read()


def _result(future, client):
    try:
        return patiently(future.result, client)
    except KilledWorker:
        return None
    except (CancelledError, CommClosedError) as error:  # the second: it went away while it answered
        raise ConnectionError(SCHEDULER_GONE) from error


@contextmanager
def scheduler_answers():
    """Say that the scheduler went away where what is asked of it fails: `ConnectionError`."""
    try:
        yield
    except (OSError, TimeoutError, ValueError) as error:
        raise ConnectionError(SCHEDULER_GONE) from error


def patiently(get, client):
    """Call ``get(timeout=…)`` until it gives something, as long as there is a cluster that can give it.

    Parameters
    ----------
    get : callable
        Raises `queue.Empty` or `TimeoutError` where there is nothing within ``timeout`` seconds.
    client : distributed.Client
        Of the cluster.

    Returns
    -------
    object
        What it gave.

    Raises
    ------
    ConnectionError
        If the scheduler goes away, or there is no worker for a minute.
    """
    last_seen = time.monotonic()
    while True:
        try:
            return get(timeout=_CHECK_SECONDS)
        except (queue.Empty, TimeoutError):
            with scheduler_answers():
                has_workers = bool(client.nthreads())
            last_seen = time.monotonic() if has_workers else last_seen
            if time.monotonic() - last_seen > PATIENCE_SECONDS:
                raise ConnectionError(
                    f"the Dask cluster has had no worker for {PATIENCE_SECONDS} s; {_RESUMABLE}"
                ) from None
