"""Clusters of a Dask Gateway."""

from importlib.util import find_spec

import dask

from astrolab.compute.clients import ClusterClient, checked_client, version_function, wait_for

GATEWAY_SECONDS = 300


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


def start_gateway(n_workers):
    """Start a cluster of the gateway that this environment is configured for, and return its client.

    Parameters
    ----------
    n_workers : int or None
        As in `start_cluster`.

    Returns
    -------
    ClusterClient

    Raises
    ------
    ConnectionError
        If nobody answers, or the gateway refuses or gives no worker.
    """
    address = dask.config.get("gateway.address")
    cluster = _ask_gateway(_new_gateway_cluster, n_workers)
    client = ClusterClient(cluster)
    try:
        client.wait_for_workers(1, timeout=GATEWAY_SECONDS)
    except TimeoutError as error:
        client.close()
        raise ConnectionError(
            f"the Dask Gateway at {address} gave no worker within {GATEWAY_SECONDS} s: it is full, or its limits are "
            "reached; try later, or type start_cluster()."
        ) from error
    return checked_client(client, client.run(version_function()))


def _new_gateway_cluster(n_workers):
    from dask_gateway import Gateway

    with Gateway() as gateway:
        cluster = gateway.new_cluster(shutdown_on_close=True)
    cluster.scale(n_workers or 2)
    return cluster


def greet_gateway():
    """Ask the gateway something that costs it nothing.

    Raises
    ------
    ConnectionError
        If nobody answers, or the gateway refuses.
    """
    from dask_gateway import Gateway

    async def greet():
        async with Gateway(asynchronous=True) as gateway:
            await gateway.list_clusters()

    _ask_gateway(wait_for, greet)


def _ask_gateway(question, *arguments):
    """Ask the gateway, and say in a sentence of ours what goes wrong."""
    from aiohttp import ClientResponseError
    from dask_gateway import GatewayClusterError, GatewayServerError

    address = dask.config.get("gateway.address")
    try:
        return question(*arguments)
    except (OSError, TimeoutError) as error:
        raise ConnectionError(
            f"no Dask Gateway answers at {address}: ask its operator, or type start_cluster()."
        ) from error
    except (GatewayClusterError, GatewayServerError, ClientResponseError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConnectionError(f"the Dask Gateway at {address} refuses a cluster: {reason}") from error
