"""Clients of clusters, those that run already too: joined where they answer and have this AstroLab."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from distributed import Client
from distributed.comm import connect
from distributed.security import Security

CONNECT_SECONDS = 5


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


def join_cluster(address, n_workers):
    """Return a client of the scheduler at an address.

    Parameters
    ----------
    address : str
        Such as ``"tcp://host:8786"``.
    n_workers : None
        Anything else is refused: the cluster has its own workers.

    Returns
    -------
    distributed.Client

    Raises
    ------
    ValueError
        If it is no address, or the workers have no AstroLab or another version.
    ConnectionError
        If nobody answers there, or what answers is no scheduler.
    """
    if n_workers is not None:
        raise ValueError(f"start_cluster({address!r}) joins a cluster that has its own workers; leave n_workers out.")

    async def greet():  # the client itself would wait for ever for an answer to its greeting
        options = Security().get_connection_args("client")
        comm = await connect(address, timeout=CONNECT_SECONDS, **options)
        await comm.close()

    try:
        wait_for(greet)
        client = Client(address, timeout=CONNECT_SECONDS)
    except MemoryError as error:  # for the size of an answer Dask takes what is none
        raise ConnectionError(
            f'what answers at {address} is no Dask scheduler; give the address that "dask scheduler" prints.'
        ) from error
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address} within {CONNECT_SECONDS} s; "
            'start one there with "dask scheduler", or type start_cluster("cpu").'
        ) from error
    except (ValueError, TypeError) as error:  # an unknown protocol, a port that is no number, TLS without its files
        raise ValueError(f"start_cluster got the address {address!r}; expected tcp://host:port ({error}).") from error
    return checked_client(client, client.run(version_function()))


def checked_client(client, versions):
    """Return a client whose workers have this AstroLab; close it and say so where they have not.

    Parameters
    ----------
    client : distributed.Client or RayClient
        Of a cluster that was not started from this environment.
    versions : dict
        Worker to version, or None where there is no AstroLab.

    Raises
    ------
    ValueError
        If a worker has another version.
    """
    here = version_function()()
    for worker, there in versions.items():
        if there != here:
            client.close()
            has = f"has astrolab-research {there}" if there else "has no astrolab-research"
            raise ValueError(
                f"the worker at {worker} {has}, expected {here} as here: "
                f'pip install "astrolab-research=={here}" in the environment of the workers.'
            )
    return client


def version_function():
    """Return a function that says, wherever it is called, which AstroLab is installed there."""

    def version_there():  # a function of a function travels whole: it needs no astrolab there
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("astrolab-research")
        except PackageNotFoundError:
            return None

    return version_there


def wait_for(coroutine_function):
    """Wait for an answer from elsewhere, no longer than CONNECT_SECONDS.

    Parameters
    ----------
    coroutine_function : callable
        Asks; it runs in a loop of its own thread, for in a notebook a loop runs already.

    Raises
    ------
    TimeoutError
        If there is no answer.
    """

    async def ask():
        async with asyncio.timeout(CONNECT_SECONDS):
            await coroutine_function()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, ask()).result()
