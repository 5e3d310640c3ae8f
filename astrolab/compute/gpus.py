"""The GPUs of this machine: which there are, and whether workers can use them."""

import os
from importlib.util import find_spec

from distributed.diagnostics import nvml

GPU_FREE_MIN = 2 << 30  # bytes: CUDA itself takes half a GiB, a chunk of spectra and its model the rest


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
