"""Start a Dask cluster, or join one; or ask only whether that would work."""

import logging
import os
from contextlib import contextmanager
from importlib.util import find_spec

import dask
from dask.system import CPU_COUNT
from distributed import LocalCluster

from astrolab.compute.clients import ClusterClient, join_cluster
from astrolab.compute.gateway import greet_gateway, start_gateway, why_not_gateway
from astrolab.compute.gpus import gpu_names, why_not_gpu
from astrolab.compute.on_ray import check_ray, start_ray

KINDS = ("auto", "cpu", "gpu", "gateway", "ray")
_PLAIN_LINK = "{scheme}://{host}:{port}/status"  # Dask's own

# a worker is one core: libraries that start threads of their own would fight over it
_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM")
}
# chunks of spectra are larger than what the C library by itself, and Dask's default more so, hands back to the kernel
# after each use: half of a worker's time then went into pages that were cleared and mapped again
_KEPT_BYTES = str(1 << 28)
_WORKER_ENVIRONMENT = _ONE_THREAD | {
    "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
    "MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES,
    "MALLOC_ARENA_MAX": "1",
}

# a task that killed two workers is computed elsewhere: one that kills a worker while it starts would end its nanny
_FEW_DEATHS = {"distributed.scheduler.allowed-failures": 1}


def start_cluster(kind="auto", *, n_workers=None, threads_per_worker=1, memory_limit="auto"):
    """Start a Dask cluster, or join one, and return its client.

    While the client is open, Dask computations run on the cluster. Closing the client (``client.close()``, or the end
    of a ``with`` block) stops the cluster that was started here; a cluster joined by its address goes on.

    Parameters
    ----------
    kind : str
        ``"cpu"``: processes of this machine, one core each; ``"gpu"``: one worker per GPU of this machine (dask-cuda);
        ``"auto"``: ``"gpu"`` where there are an NVIDIA GPU and dask-cuda, else ``"cpu"``; ``"gateway"``: a cluster of
        the Dask Gateway that this environment is configured for; ``"ray"``: Dask's graphs on the Ray cluster at
        ``RAY_ADDRESS``, or on a local one; or the address of a running scheduler, ``"tcp://host:8786"``.
    n_workers : int, optional
        How many workers; by default one per core, or one per GPU.
    threads_per_worker : int
        Threads of a local worker. Libraries below (BLAS, OpenMP, torch) are held to one thread each.
    memory_limit : str, int or float
        Memory of one local worker (``"4GiB"``), above which it spills to disk; ``"auto"`` shares this machine's memory.

    Returns
    -------
    distributed.Client or RayClient
        The client; in a notebook it prints itself with a link to its dashboard.

    Raises
    ------
    ValueError
        If `kind` is unknown, or asks for a GPU that is not there, or `n_workers` is given with an address, or the
        workers of a cluster that is joined have no AstroLab or another version.
    ImportError
        If `kind` needs a library that is not installed.
    ConnectionError
        If the cluster cannot start, nobody answers at the address, or the gateway refuses or gives no worker.

    Examples
    --------
    >>> from astrolab.compute import start_cluster
    >>> with start_cluster("cpu", n_workers=1) as client:
    ...     client.submit(sum, [1, 2]).result()
    3
    """
    if "://" in str(kind):
        return join_cluster(kind, n_workers)
    check_cluster(kind, n_workers=n_workers)
    if kind == "gateway":
        return start_gateway(n_workers)
    if kind == "ray":
        return start_ray(n_workers)
    _link_through_hub()
    if kind == "gpu" or (kind == "auto" and why_not_gpu() is None):
        return _start_gpu(n_workers, threads_per_worker, memory_limit)
    return _start_cpu(n_workers, threads_per_worker, memory_limit)


def check_cluster(kind, *, n_workers=None):
    """Refuse at once, and start nothing, what `start_cluster` would refuse or could not reach.

    Parameters
    ----------
    kind : str
        As in `start_cluster`; of an address it is asked whether a scheduler answers there.
    n_workers : int, optional
        As in `start_cluster`.

    Raises
    ------
    ValueError, ImportError, ConnectionError
        As in `start_cluster`; an address at which nobody answers takes 5 s.

    Examples
    --------
    >>> check_cluster("cpu", n_workers=2)
    >>> check_cluster("gpus")
    Traceback (most recent call last):
    ValueError: start_cluster got kind='gpus'; expected one of 'auto', 'cpu', ... or an address tcp://host:port.
    """
    if "://" in str(kind):
        join_cluster(kind, n_workers).close()
        return
    if kind not in KINDS:
        known = ", ".join(repr(name) for name in KINDS)
        raise ValueError(f"start_cluster got kind={kind!r}; expected one of {known}, or an address tcp://host:port.")
    if n_workers is not None and n_workers < 1:
        raise ValueError(
            f"start_cluster got n_workers={n_workers}; expected at least 1, or None for one a core or GPU."
        )
    if kind == "gateway":
        _need("dask_gateway", why_not_gateway())
        greet_gateway()
    elif kind == "ray":
        check_ray(n_workers)
    elif kind == "gpu":
        _need("dask_cuda", why_not_gpu())


def _need(module, reason):
    if reason is not None:
        raise ImportError(reason) if find_spec(module) is None else ValueError(reason)


def _start_cpu(n_workers, threads_per_worker, memory_limit):
    if n_workers is None:
        n_workers = max(1, CPU_COUNT // threads_per_worker)
    settings = {"distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT, **_FEW_DEATHS}
    with dask.config.set(settings):
        cluster = _start_local(
            LocalCluster,
            n_workers=n_workers,
            threads_per_worker=threads_per_worker,
            memory_limit=memory_limit,
            processes=True,
        )
    return ClusterClient(cluster)


def _start_local(kind, **options):
    try:
        # any free port: two clusters on one machine do not meet
        with _own_environment():
            return kind(dashboard_address=":0", silence_logs=logging.ERROR, **options)
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConnectionError(f"no Dask cluster can be started on this machine: {reason}") from error


@contextmanager
def _own_environment():
    """Give this process back the environment that Dask leaves it with: that of its workers, who have one thread."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _start_gpu(n_workers, threads_per_worker, memory_limit):
    from dask_cuda import LocalCUDACluster

    n_gpus = len(gpu_names())
    if n_workers is not None and n_workers > n_gpus:
        raise ValueError(
            f'start_cluster(kind="gpu") got n_workers={n_workers}; this machine has {n_gpus} GPUs, one each.'
        )
    with dask.config.set(_FEW_DEATHS):
        cluster = _start_local(
            LocalCUDACluster, n_workers=n_workers, threads_per_worker=threads_per_worker, memory_limit=memory_limit
        )
    return ClusterClient(cluster)


def _link_through_hub():
    """Under JupyterHub a browser reaches a dashboard of this machine through the hub's proxy only."""
    is_plain = dask.config.get("distributed.dashboard.link") == _PLAIN_LINK
    if os.environ.get("JUPYTERHUB_SERVICE_PREFIX") and is_plain:
        dask.config.set({"distributed.dashboard.link": "{JUPYTERHUB_SERVICE_PREFIX}proxy/{port}/status"})
