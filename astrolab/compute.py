"""Where the work is done: one function that starts, or joins, a Dask cluster."""

import logging
import os
from importlib.util import find_spec

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.diagnostics import nvml

KINDS = ("auto", "cpu", "gpu", "gateway")
CONNECT_SECONDS = 5

# a worker is one core: libraries that start threads of their own would fight over it
_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM")
} | {"MALLOC_TRIM_THRESHOLD_": "65536"}

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
        the Dask Gateway that this environment is configured for; or the address of a running scheduler,
        ``"tcp://host:8786"``.
    n_workers : int, optional
        How many workers; by default one per core, or one per GPU.
    threads_per_worker : int
        Threads of a local worker. Libraries below (BLAS, OpenMP, torch) are held to one thread each.
    memory_limit : str, int or float
        Memory of one local worker (``"4GiB"``), above which it spills to disk; ``"auto"`` shares this machine's memory.

    Returns
    -------
    distributed.Client
        The client; in a notebook it prints itself with a link to its dashboard.

    Raises
    ------
    ValueError
        If `kind` is unknown, or asks for a GPU that is not there, or `n_workers` is given with an address.
    ImportError
        If `kind` needs a library that is not installed.
    ConnectionError
        If nobody answers at the address.

    Examples
    --------
    >>> from astrolab.compute import start_cluster
    >>> with start_cluster("cpu", n_workers=1) as client:
    ...     client.submit(sum, [1, 2]).result()
    3
    """
    if "://" in str(kind):
        return _join(kind, n_workers)
    if kind not in KINDS:
        known = ", ".join(repr(name) for name in KINDS)
        raise ValueError(f"start_cluster got kind={kind!r}; expected one of {known}, or an address tcp://host:port.")
    if n_workers is not None and n_workers < 1:
        raise ValueError(
            f"start_cluster got n_workers={n_workers}; expected at least 1, or None for one a core or GPU."
        )
    if kind == "gateway":
        return _start_gateway(n_workers)
    if kind == "gpu" or (kind == "auto" and why_not_gpu() is None):
        return _start_gpu(n_workers, threads_per_worker, memory_limit)
    return _start_cpu(n_workers, threads_per_worker, memory_limit)


def gpu_names():
    """Return the names of the NVIDIA GPUs that this process may use.

    Returns
    -------
    list of str
        One name a GPU; empty where there is none, no driver, or ``CUDA_VISIBLE_DEVICES`` hides them all.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "NoDevFiles"):
        return []
    n_gpus = nvml.device_get_count()
    if n_gpus == 0:
        return []
    import pynvml  # there, since nvml has counted

    names = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(n_gpus)]
    return [name if isinstance(name, str) else name.decode() for name in names]


def why_not_gpu():
    """Return why ``start_cluster("gpu")`` cannot work here.

    Returns
    -------
    str or None
        One sentence; None where it can.
    """
    if find_spec("dask_cuda") is None:
        return 'start_cluster(kind="gpu") needs dask-cuda: pip install "astrolab-research[gpu]"'
    if not gpu_names():
        return (
            'start_cluster(kind="gpu") finds no NVIDIA GPU on this machine (nvidia-smi lists those it has, and '
            'CUDA_VISIBLE_DEVICES can hide them); type start_cluster("cpu").'
        )
    return None


def why_not_gateway():
    """Return why ``start_cluster("gateway")`` cannot work here.

    Returns
    -------
    str or None
        One sentence; None where it can be tried.
    """
    if find_spec("dask_gateway") is None:
        return 'start_cluster(kind="gateway") needs dask-gateway: pip install "astrolab-research[hub]"'
    if not dask.config.get("gateway.address", None):
        return (
            'start_cluster(kind="gateway") does not know where the Dask Gateway is: '
            "set DASK_GATEWAY__ADDRESS to its address, or type start_cluster()."
        )
    return None


class ClusterClient(Client):
    """A client that stops its cluster when it closes, as `Client()` does with the local one it starts itself."""

    def close(self, *args, **kwargs):
        """Close the client, then its cluster."""
        cluster = self.cluster
        super().close(*args, **kwargs)
        if cluster is not None:
            cluster.close()


def _start_cpu(n_workers, threads_per_worker, memory_limit):
    if n_workers is None:
        n_workers = max(1, CPU_COUNT // threads_per_worker)
    with dask.config.set({"distributed.nanny.pre-spawn-environ": _ONE_THREAD, **_FEW_DEATHS}):
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads_per_worker,
            memory_limit=memory_limit,
            processes=True,
            dashboard_address=":0",  # any free port: two clusters on one machine do not meet
            silence_logs=logging.ERROR,
        )
    return ClusterClient(cluster)


def _start_gpu(n_workers, threads_per_worker, memory_limit):
    reason = why_not_gpu()
    if reason is not None:
        raise ImportError(reason) if find_spec("dask_cuda") is None else ValueError(reason)
    from dask_cuda import LocalCUDACluster

    n_gpus = len(gpu_names())
    if n_workers is not None and n_workers > n_gpus:
        raise ValueError(
            f'start_cluster(kind="gpu") got n_workers={n_workers}; this machine has {n_gpus} GPUs, one each.'
        )
    with dask.config.set(_FEW_DEATHS):
        cluster = LocalCUDACluster(
            n_workers=n_workers,
            threads_per_worker=threads_per_worker,
            memory_limit=memory_limit,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        )
    return ClusterClient(cluster)


def _start_gateway(n_workers):
    reason = why_not_gateway()
    if reason is not None:
        raise ImportError(reason) if find_spec("dask_gateway") is None else ValueError(reason)
    from dask_gateway import Gateway

    cluster = Gateway().new_cluster(shutdown_on_close=True)
    cluster.scale(n_workers or 2)
    return ClusterClient(cluster)


def _join(address, n_workers):
    if n_workers is not None:
        raise ValueError(f"start_cluster({address!r}) joins a cluster that has its own workers; leave n_workers out.")
    try:
        return Client(address, timeout=CONNECT_SECONDS)
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address} within {CONNECT_SECONDS} s; "
            'start one there with "dask scheduler", or type start_cluster("cpu").'
        ) from error
    except ValueError as error:  # an unknown protocol, a port that is no number
        raise ValueError(f"start_cluster got the address {address!r}; expected tcp://host:port ({error}).") from error
