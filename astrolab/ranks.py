"""Dask workers as the ranks of one torch process group: one function, on each of them at the same time."""

import os
import queue
import socket
from contextlib import suppress
from datetime import timedelta

from distributed import CancelledError, Future, get_client, get_worker, wait
from distributed.comm import get_address_host
from distributed.protocol.pickle import dumps, loads

_TOPIC = "astrolab-ranks"
_PATIENCE = timedelta(minutes=10)  # of a rank for the others
_SECONDS_TO_TELL = 5  # a rank that fails takes the others along: who fell first is known a moment later


def run_ranks(function, n_ranks, *arguments, data, heard, folder=None):
    """Run a function on Dask workers of the cluster in use, at the same time, as one torch process group.

    The group speaks gloo on CPUs, and nccl where the workers have GPUs.

    Parameters
    ----------
    function : callable
        Of the data and the arguments; `torch.distributed` is ready when it is called.
    n_ranks : int
        Workers to take, at least 2.
    *arguments
        Sent to each of them.
    data : object
        What is large, in memory: sent to each of them past the scheduler.
    heard : callable
        Called with what ranks `say`.
    folder : path-like, optional
        A folder that each of them must see.

    Returns
    -------
    object
        What rank 0 gave.

    Raises
    ------
    ValueError
        If there is no cluster, or it has fewer workers, or one of them does not see the folder.
    ConnectionError
        If a worker or the scheduler dies.
    """
    client, workers = _choose_workers(n_ranks)
    if folder is not None and not all(client.run(os.path.isdir, str(folder), workers=workers).values()):
        raise ValueError(f"not every Dask worker sees the folder '{folder}'; give one on a disk that they share.")
    port = client.submit(_free_port, workers=workers[:1], pure=False).result()
    address = f"tcp://{get_address_host(workers[0])}:{port}"
    task = dumps((function, arguments))
    sent = client.scatter(data, workers=workers, broadcast=True, hash=False)
    futures = [
        client.submit(_as_rank, task, sent, rank, n_ranks, address, workers=[worker], pure=False)
        for rank, worker in enumerate(workers)
    ]
    # futures that are done, and what ranks say: a kernel shows nothing of what another thread prints
    news, n_left = queue.SimpleQueue(), n_ranks
    client.subscribe_topic(_TOPIC, lambda event: news.put(event[1]))
    for future in futures:
        future.add_done_callback(news.put)
    try:
        while n_left:
            item = news.get()
            if not isinstance(item, Future):
                heard(item)
                continue
            if item.status != "finished":
                raise _what_happened(client, workers, futures)
            n_left -= 1
        return futures[0].result()
    finally:
        if client.status == "running":
            client.cancel(futures)
            client.unsubscribe_topic(_TOPIC)


def say(message):
    """Say, as a rank, something to the caller of `run_ranks`.

    Parameters
    ----------
    message : object
        Numbers, strings, and lists of them.
    """
    get_worker().log_event(_TOPIC, message)


def _choose_workers(n_ranks):
    try:
        client = get_client()
    except ValueError as error:
        raise ValueError(
            f"{n_ranks} Dask workers are to train together, but there is none; start_cluster()."
        ) from error
    workers = sorted(client.nthreads())
    if len(workers) < n_ranks:
        raise ValueError(f"{n_ranks} Dask workers are to train together, but the cluster has {len(workers)}.")
    return client, workers[:n_ranks]


def _as_rank(task, data, rank, n_ranks, address):
    """In a worker."""
    import dask
    import torch
    from torch import distributed as group

    function, arguments = loads(task)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group.init_process_group(backend, init_method=address, rank=rank, world_size=n_ranks, timeout=_PATIENCE)
    try:
        with dask.config.set(scheduler="synchronous"):  # the cluster's workers are busy with this
            result = function(data, *arguments)
    finally:
        group.destroy_process_group()
    return result if rank == 0 else None


def _free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _what_happened(client, workers, futures):
    """Return the error to raise: the death of a worker, else what a rank itself raised."""
    with suppress(TimeoutError, CancelledError):
        wait(futures, timeout=_SECONDS_TO_TELL)
    errors = [future.exception() for future in futures if future.status == "error"]
    if not errors or set(workers) - set(client.nthreads()):
        return ConnectionError(
            "a Dask worker, or the scheduler, went away while workers trained together; what the checkpoint holds is "
            "kept: run the same again."
        )
    return next((error for error in errors if not isinstance(error, RuntimeError)), errors[0])
