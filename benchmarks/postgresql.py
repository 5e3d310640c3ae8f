"""A PostgreSQL server of one's own, for as long as a test or a benchmark needs it: a socket, no port, no password."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path


class NoPostgresqlError(RuntimeError):
    """There is no PostgreSQL on this machine; the message says what to install."""


class Server:
    """A running server; `temporary_server` makes one.

    Parameters
    ----------
    folder : pathlib.Path
        Its data, log and socket.
    """

    def __init__(self, folder):
        self._folder, self._process, self._n_databases = folder, None, 0
        self._prefix = _as_somebody(folder)
        self._run("initdb", "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C")
        self.start()

    def start(self):
        """Start it, and wait until it answers."""
        command = [*self._prefix, _find("postgres"), "-D", self._data, "-k", self._folder, "-c", "listen_addresses="]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 60
        while subprocess.run([_find("pg_isready"), "-q", "-h", self._folder], check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoPostgresqlError(f"postgres does not start: {(self._folder / 'log').read_text()[-500:]}")
            time.sleep(0.05)

    def stop(self):
        """Stop it; what was committed stays."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=60)

    def new_database(self):
        """Make an empty database, and return its URL."""
        self._n_databases += 1
        name = f"catalog{self._n_databases}"
        subprocess.run([_find("createdb"), "-h", self._folder, "-U", "postgres", name], check=True)
        return f"postgresql://postgres@/{name}?host={self._folder}"

    @property
    def _data(self):
        return self._folder / "data"

    def _run(self, program, *arguments):
        command = [*self._prefix, _find(program), "-D", self._data, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def temporary_server():
    """Start a server in a new folder; stop it and remove the folder at the end.

    Yields
    ------
    Server

    Raises
    ------
    NoPostgresqlError
        If there is no PostgreSQL here.
    """
    _find("initdb")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path is short
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _find(program):
    places = [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None:
        raise NoPostgresqlError(f"there is no {program} on this machine: apt-get install postgresql")
    return found


def _as_somebody(folder):
    """Return how to run a program as a user that PostgreSQL accepts: it refuses root."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
