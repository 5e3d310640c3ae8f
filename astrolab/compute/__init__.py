"""Where the work is done: one function that starts, or joins, a Dask cluster, and one that asks whether it could."""

from astrolab.compute.cluster import KINDS, check_cluster, start_cluster
from astrolab.compute.gateway import why_not_gateway
from astrolab.compute.gpus import gpu_names, why_not_gpu, why_not_memory

__all__ = [
    "KINDS",
    "check_cluster",
    "gpu_names",
    "start_cluster",
    "why_not_gateway",
    "why_not_gpu",
    "why_not_memory",
]
