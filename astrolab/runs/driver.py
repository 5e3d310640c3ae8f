"""The process that drives a run: one at a time, and seen to be alive."""

import json
import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from astrolab.runs.paths import DRIVER, HEARTBEAT, LOCK
from astrolab.stores.locks import try_lock
from astrolab.stores.publish import write_whole

BEAT_SECONDS = 2.0
DEAD_SECONDS = 30.0  # without a heartbeat, on another host


class RunningError(RuntimeError):
    """Another process drives this run."""


@contextmanager
def driving(run_dir):
    """Hold a run folder: nobody else may drive it meanwhile; the lock goes with the process, however that ends.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder; it is there.

    Yields
    ------
    Heartbeat
        What `read_state` shows of the run.

    Raises
    ------
    RunningError
        If another process holds it.
    """
    (run_dir / DRIVER).mkdir(exist_ok=True)
    with (run_dir / LOCK).open("a") as file:
        if not try_lock(file):
            raise RunningError(f"another process drives the run in {run_dir}{_who(run_dir)}; wait for it, or end it.")
        heartbeat = Heartbeat(run_dir)
        try:
            yield heartbeat
        finally:
            heartbeat.stop()
            shutil.rmtree(run_dir / DRIVER, ignore_errors=True)


class Heartbeat:
    """Writes, every two seconds, that the driver is alive and which cell it is at.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder.
    """

    def __init__(self, run_dir):
        self.cell = ""
        self._path = run_dir / HEARTBEAT
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self):
        """Stop."""
        self._stopped.set()
        self._thread.join()

    def _beat(self):
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        while True:
            with suppress(OSError):  # a full disk ends the run where something is written that matters
                write_whole(self._path, json.dumps({**about, "time": time.time(), "cell": self.cell}).encode())
            if self._stopped.wait(BEAT_SECONDS):
                return


def read_heartbeat(run_dir):
    """Return the last heartbeat of a run, or an empty dict.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder.

    Returns
    -------
    dict
        ``host``, ``pid``, ``time`` (s since 1970) and ``cell``.
    """
    try:
        return json.loads((run_dir / HEARTBEAT).read_bytes())
    except (OSError, ValueError):
        return {}


def is_driven(run_dir):
    """Return whether a process drives the run: it holds the lock, or, on another host, its heart beats.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder.

    Returns
    -------
    bool
    """
    beat = read_heartbeat(run_dir)
    if beat and beat["host"] != socket.gethostname():
        return time.time() - beat["time"] < DEAD_SECONDS
    try:
        with Path(run_dir, LOCK).open("r") as file:
            return not try_lock(file)
    except FileNotFoundError:
        return False


def _who(run_dir):
    beat = read_heartbeat(run_dir)
    return f" (process {beat['pid']} on {beat['host']})" if beat else ""
