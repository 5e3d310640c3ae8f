"""Where the work is done: one function that starts, or joins, a Dask cluster."""

import logging
import os
import socket
from contextlib import suppress
from importlib.util import find_spec

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.diagnostics import nvml

KINDS = ("auto", "cpu", "gpu", "gateway", "ray")
CONNECT_SECONDS = 5
GATEWAY_SECONDS = 300
GPU_FREE_MIN = 2 << 30  # bytes: CUDA itself takes half a GiB, a chunk of spectra and its model the rest
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
    if kind == "ray":
        return _start_ray(n_workers)
    _link_through_hub()
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
    names = _ask_gpus("nvmlDeviceGetName")
    return [name if isinstance(name, str) else name.decode() for name in names]


def _gpu_free_bytes():
    return [memory.free for memory in _ask_gpus("nvmlDeviceGetMemoryInfo")]


def _ask_gpus(question):
    n_gpus = nvml.device_get_count()
    if n_gpus == 0:
        return []
    import pynvml  # there, since nvml has counted

    return [getattr(pynvml, question)(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(n_gpus)]


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
    return why_not_memory(_gpu_free_bytes())


def why_not_memory(free):
    """Return why GPUs have too little memory.

    Parameters
    ----------
    free : list of int
        Bytes that nobody uses, of each GPU.

    Returns
    -------
    str or None
        One sentence; None where they have enough.

    Examples
    --------
    >>> why_not_memory([16 << 30, 16 << 30])
    """
    for index, n_bytes in enumerate(free):
        if n_bytes < GPU_FREE_MIN:
            return (
                f'start_cluster(kind="gpu") finds {n_bytes / 2**30:.1f} GiB free on GPU {index}, expected at least '
                f"{GPU_FREE_MIN / 2**30:.0f} GiB; end what else runs there (nvidia-smi lists it), or type "
                'start_cluster("cpu").'
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
            # a worker that is busy, or was killed, may not end in time: its work is done or stored, and it dies with us
            with suppress(TimeoutError):
                cluster.close()


class RayClient:
    """What ``start_cluster("ray")`` gives: while it is open, Dask computes its graphs on Ray.

    Workers keep finished chunks as Dask's do, and Ray starts a task again whose worker died; a row that kills each of
    them is not set aside there.

    Attributes
    ----------
    dashboard_link : str
        Of Ray's dashboard; empty where Ray was installed without it.
    """

    def __init__(self, dashboard_link):
        from ray.util.dask import ray_dask_get

        self.dashboard_link = dashboard_link
        self._config = dask.config.set(scheduler=ray_dask_get)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def scheduler_info(self):
        """Return the workers, one a core, as Dask's client does."""
        import ray

        return {"workers": {f"ray-{i}": {} for i in range(int(ray.cluster_resources().get("CPU", 0)))}}

    def close(self):
        """Leave the Ray cluster, and stop it where it was started here."""
        import ray

        self._config.__exit__(None, None, None)
        ray.shutdown()


def _start_cpu(n_workers, threads_per_worker, memory_limit):
    if n_workers is None:
        n_workers = max(1, CPU_COUNT // threads_per_worker)
    with dask.config.set({"distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT, **_FEW_DEATHS}):
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
        return kind(dashboard_address=":0", silence_logs=logging.ERROR, **options)
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConnectionError(f"no Dask cluster can be started on this machine: {reason}") from error


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
        cluster = _start_local(
            LocalCUDACluster, n_workers=n_workers, threads_per_worker=threads_per_worker, memory_limit=memory_limit
        )
    return ClusterClient(cluster)


def _start_gateway(n_workers):
    reason = why_not_gateway()
    if reason is not None:
        raise ImportError(reason) if find_spec("dask_gateway") is None else ValueError(reason)
    from aiohttp import ClientResponseError
    from dask_gateway import Gateway, GatewayClusterError, GatewayServerError

    address = dask.config.get("gateway.address")
    try:
        with Gateway() as gateway:
            cluster = gateway.new_cluster(shutdown_on_close=True)
        cluster.scale(n_workers or 2)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"no Dask Gateway answers at {address}: ask its operator, or type start_cluster()."
        ) from error
    except (GatewayClusterError, GatewayServerError, ClientResponseError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConnectionError(f"the Dask Gateway at {address} refuses a cluster: {reason}") from error
    client = ClusterClient(cluster)
    try:
        client.wait_for_workers(1, timeout=GATEWAY_SECONDS)
    except TimeoutError as error:
        client.close()
        raise ConnectionError(
            f"the Dask Gateway at {address} gave no worker within {GATEWAY_SECONDS} s: it is full, or its limits are "
            "reached; try later, or type start_cluster()."
        ) from error
    return _checked(client, client.run(_version_function()))


def _start_ray(n_workers):
    if find_spec("ray") is None:
        raise ImportError('start_cluster(kind="ray") needs Ray: pip install "astrolab-research[ray]"')
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_ray_answers(address, n_workers)
    import ray

    try:
        made = ray.init(address or "local", num_cpus=n_workers, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises nothing narrower when it cannot start
        reason = " ".join(str(error).split())
        raise ConnectionError(f"the Ray cluster {address or 'of this machine'} cannot be used: {reason}") from error
    client = RayClient(made.dashboard_url and f"http://{made.dashboard_url}")
    version_there = _version_function()
    return _checked(client, {"Ray": ray.get(ray.remote(version_there).remote())})


def _check_ray_answers(address, n_workers):
    """Ray itself waits for minutes, and then ends the process."""
    if n_workers is not None:
        raise ValueError(f"RAY_ADDRESS is {address}, a cluster that has its own workers; leave n_workers out.")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except ValueError as error:
        raise ValueError(f"RAY_ADDRESS is {address!r}, expected host:port, such as 10.0.0.1:6379.") from error
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at RAY_ADDRESS {address} within {CONNECT_SECONDS} s; start one there with "
            '"ray start --head", or unset RAY_ADDRESS to start one here.'
        ) from error


def _version_function():
    def version_there():  # a function of a function travels whole: it needs no astrolab there
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("astrolab-research")
        except PackageNotFoundError:
            return None

    return version_there


def _checked(client, versions):
    """Return a client whose workers have this AstroLab; close it and say so where they have not."""
    here = _version_function()()
    for worker, there in versions.items():
        if there != here:
            client.close()
            has = f"has astrolab-research {there}" if there else "has no astrolab-research"
            raise ValueError(
                f"the worker at {worker} {has}, expected {here} as here: "
                f'pip install "astrolab-research=={here}" in the environment of the workers.'
            )
    return client


def _link_through_hub():
    """Under JupyterHub a browser reaches a dashboard of this machine through the hub's proxy only."""
    is_plain = dask.config.get("distributed.dashboard.link") == _PLAIN_LINK
    if os.environ.get("JUPYTERHUB_SERVICE_PREFIX") and is_plain:
        dask.config.set({"distributed.dashboard.link": "{JUPYTERHUB_SERVICE_PREFIX}proxy/{port}/status"})


def _join(address, n_workers):
    if n_workers is not None:
        raise ValueError(f"start_cluster({address!r}) joins a cluster that has its own workers; leave n_workers out.")
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address} within {CONNECT_SECONDS} s; "
            'start one there with "dask scheduler", or type start_cluster("cpu").'
        ) from error
    except ValueError as error:  # an unknown protocol, a port that is no number
        raise ValueError(f"start_cluster got the address {address!r}; expected tcp://host:port ({error}).") from error
    return _checked(client, client.run(_version_function()))
