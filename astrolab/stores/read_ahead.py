"""What a pass reads next is asked of the disk while workers compute what comes before it.

A survey is larger than memory: without this, each worker waits for each of its chunks. Only the kernel is told; the
pages are its own, so that nothing is held here, and it does not matter which worker needs them.
"""

from contextlib import suppress
from functools import partial

from dask._task_spec import convert_legacy_graph
from dask.core import flatten
from distributed.comm import get_address_host


def find_reads(lazy):
    """Return what each chunk of an array will read from stores.

    Parameters
    ----------
    lazy : dask.array.Array
        Any.

    Returns
    -------
    list of list of callable
        Of each chunk, without arguments: each asks the disk for one thing that will be read, and waits for nothing.
    """
    # not yet fused: there, whatever reads does nothing else
    graph = convert_legacy_graph(dict(lazy.__dask_graph__()))
    return [_reads_of(graph, key) for key in flatten(lazy.__dask_keys__())]


def are_workers_here(client):
    """Say whether all workers of a cluster are on this machine, whose memory the kernel reads into.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.

    Returns
    -------
    bool
    """
    addresses = client.nthreads()
    return all(one.startswith("inproc://") or get_address_host(one) == "127.0.0.1" for one in addresses)


def _reads_of(graph, key):
    reads, seen, found = [], {key}, [key]
    while found:
        task = graph[found.pop()]
        needed = task.dependencies & graph.keys()
        sources = [getattr(graph[other], "value", None) for other in needed]
        if len(task.dependencies) == 1 and sources and hasattr(sources[0], "expect"):
            reads.append(partial(_ask, task, {next(iter(needed)): _Asking(sources[0])}))
        found += needed - seen
        seen |= needed
    return reads


def _ask(task, sources):
    with suppress(_AskedError):
        task(sources)


class _AskedError(Exception):
    """A task came to where it would read."""


class _Asking:
    """Stands for a stored array in a task that is run only to learn what it will read."""

    def __init__(self, stored):
        self._stored = stored
        self.shape, self.dtype, self.ndim = stored.shape, stored.dtype, stored.ndim

    def __getitem__(self, key):
        self._stored.expect(key)
        raise _AskedError
