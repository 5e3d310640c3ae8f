"""Dask's graphs on a Ray cluster."""

import logging
import os
import socket
from importlib.util import find_spec

import dask

from astrolab.compute.clients import CONNECT_SECONDS, checked_client, version_function


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


def start_ray(n_workers):
    """Join the Ray cluster at ``RAY_ADDRESS``, or start one on this machine.

    Parameters
    ----------
    n_workers : int or None
        As in `start_cluster`.

    Returns
    -------
    RayClient

    Raises
    ------
    ConnectionError
        If Ray cannot be used.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS")
    try:
        made = ray.init(address or "local", num_cpus=n_workers, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises nothing narrower when it cannot start
        reason = " ".join(str(error).split())
        raise ConnectionError(f"the Ray cluster {address or 'of this machine'} cannot be used: {reason}") from error
    client = RayClient(made.dashboard_url and f"http://{made.dashboard_url}")
    version_there = version_function()
    return checked_client(client, {"Ray": ray.get(ray.remote(version_there).remote())})


def check_ray(n_workers):
    """Ask whether Ray answers: Ray itself waits for minutes, and then ends the process.

    Parameters
    ----------
    n_workers : int or None
        As in `start_cluster`.

    Raises
    ------
    ImportError, ValueError, ConnectionError
        If Ray is not installed, ``RAY_ADDRESS`` is no address or its cluster has its own workers, or nobody answers.
    """
    if find_spec("ray") is None:
        raise ImportError('start_cluster(kind="ray") needs Ray: pip install "astrolab-research[ray]"')
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return
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
