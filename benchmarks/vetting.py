"""Many vetters at once, the server killed meanwhile: is every acknowledged verdict there once, and how fast was it.

``python -m benchmarks.vetting`` lets 50 vetters give 1,000 verdicts each through the service, kills the server process
10 times (kill -9), and prints a line for SQLite and PostgreSQL. A vetter sends a verdict again, with the same key,
until it is acknowledged. They do not stop to think: the waits are those of a queue of 50 at a server that is never
idle. A second line has 50 vetters who look at each object for a while (0.75 s on the average, faster than people).
"""

import argparse
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from astrolab.stores.catalog import open_catalog
from astrolab.vetting.campaigns import open_campaign
from benchmarks.postgresql import NoPostgresqlError, temporary_server

RUN_ID = "benchmark"
FIRST_ID = 2**53 + 1
THINK, N_THOUGHT = 0.75, 80  # s, verdicts of each vetter who thinks
N_AGAIN_LIMIT = 5000  # a vetter who sent that often meets a broken server, not a killed one


def ranking(n_objects):
    """Return a ranking of so many objects, with ids that a float cannot hold."""
    targetid = FIRST_ID + 2 * np.arange(n_objects)
    return pd.DataFrame({"targetid": targetid, "anomaly_rank": np.arange(1, n_objects + 1), "survey": "main"})


def serve(url, port, n_objects):
    """Serve the vetting service over HTTP: a thread a vetter, one catalog."""
    campaign = open_campaign(open_catalog(url), RUN_ID, ranking(n_objects))
    sessions = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            user = self.headers["X-User"]
            if user not in sessions:
                sessions[user] = campaign.session(user, "vetter")
            verdict = sessions[user].store_verdict(said["targetid"], "anomaly", quality=4, key=said["key"])
            body = json.dumps({"id": verdict.id}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 200
        daemon_threads = True

    Server(("127.0.0.1", port), Handler).serve_forever()


class _Vetter(threading.Thread):
    """Sends verdicts one after the other, each until it is acknowledged."""

    def __init__(self, name, port, n_verdicts, think):
        super().__init__(daemon=True)
        self.user, self.port, self.n_verdicts, self.think = name, port, n_verdicts, think
        self._rng = np.random.default_rng(list(name.encode()))
        self.acknowledged, self.waits, self.n_again = {}, [], 0

    def run(self):
        connection = None
        for number in range(self.n_verdicts):
            body = {"targetid": FIRST_ID + 2 * number, "key": f"{self.user}-{number}"}
            time.sleep(self._rng.exponential(self.think) if self.think else 0)
            while body["key"] not in self.acknowledged:
                started = time.perf_counter()
                try:
                    connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                    connection.request("POST", "/", json.dumps(body), {"X-User": self.user})
                    answer = connection.getresponse()
                    content = answer.read()
                    if answer.status == 200:
                        self.acknowledged[body["key"]] = json.loads(content)["id"]
                        self.waits.append(time.perf_counter() - started)
                except (OSError, http.client.HTTPException):  # the server was killed
                    connection, self.n_again = None, self.n_again + 1
                    if self.n_again > N_AGAIN_LIMIT:
                        raise
                    time.sleep(0.1)


def measure(url, n_vetters, n_verdicts, n_kills, think=0.0):
    """Return what came of so many verdicts with so many kills, as a dict; `think` is the mean pause (s)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.vetting", "--serve", url, str(port), str(n_verdicts)]
    server = subprocess.Popen(command)
    vetters = [_Vetter(f"vetter{number:02d}", port, n_verdicts, think) for number in range(n_vetters)]
    _wait_for(port, server)
    started, cpu = time.perf_counter(), 0.0
    for vetter in vetters:
        vetter.start()
    for kill in range(1, n_kills + 1):
        enough = kill * n_vetters * n_verdicts / (n_kills + 1)
        while any(v.is_alive() for v in vetters) and sum(len(v.acknowledged) for v in vetters) < enough:
            time.sleep(0.01)
        cpu += sum(psutil.Process(server.pid).cpu_times()[:2])
        server.send_signal(signal.SIGKILL)
        server.wait()
        server = subprocess.Popen(command)
    for vetter in vetters:
        vetter.join()
    seconds = time.perf_counter() - started
    cpu += sum(psutil.Process(server.pid).cpu_times()[:2])
    server.send_signal(signal.SIGKILL)
    server.wait()
    with open_catalog(url) as catalog:
        stored, log = catalog.verdicts(RUN_ID), catalog.audit_log(RUN_ID)
    acknowledged = {key: number for vetter in vetters for key, number in vetter.acknowledged.items()}
    ids = dict(zip(stored["key"], stored["id"], strict=True))
    waits = np.concatenate([vetter.waits for vetter in vetters]) * 1000
    return {
        "stored": len(stored),
        "acknowledged": len(acknowledged),
        "lost": sum(ids.get(key) != number for key, number in acknowledged.items()),
        "duplicates": int(stored.duplicated(["user", "targetid"]).sum()),
        "audit entries": int((log["action"] == "verdict").sum()),
        "sent again": sum(vetter.n_again for vetter in vetters),
        "p50 ms": round(float(np.quantile(waits, 0.5)), 1),
        "p95 ms": round(float(np.quantile(waits, 0.95)), 1),
        "worst ms": round(float(waits.max()), 1),
        "seconds": round(seconds, 1),
        "verdicts/s": round(len(stored) / seconds, 1),
        "server cpu ms a verdict": round(1000 * cpu / max(len(stored), 1), 2),
    }


def _wait_for(port, server):
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main():
    """Run it on both databases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-vetters", type=int, default=50)
    parser.add_argument("--n-verdicts", type=int, default=1000)
    parser.add_argument("--n-kills", type=int, default=10)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--serve", nargs=3, metavar=("URL", "PORT", "N_OBJECTS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve[0], int(asked.serve[1]), int(asked.serve[2]))
    saturated = (asked.n_vetters, asked.n_verdicts, asked.n_kills)
    thinking = (asked.n_vetters, min(asked.n_verdicts, N_THOUGHT), 0, THINK)
    for name, how in product(asked.databases, (saturated, thinking)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                with temporary_server() if name == "postgresql" else nullcontext() as server:
                    url = server.new_database() if server else f"sqlite:///{Path(folder) / 'catalog.db'}"
                    result = measure(url, *how)
            except NoPostgresqlError as error:
                result = {"not measured": str(error)}
        pace = "without a pause" if how is saturated else f"a verdict and {THINK} s of thought"
        print(f"{name}, {pace}: " + ", ".join(f"{what} {value}" for what, value in result.items()), flush=True)


if __name__ == "__main__":
    main()
