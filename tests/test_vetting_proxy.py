"""Behind a proxy: pages, logins and websockets work under a path, and no other site gets in."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import xarray as xr

from astrolab.dashboards.serve import check_prefix
from astrolab.plots import ranking_table
from astrolab.stores.spectra import save_spectra
from astrolab.vetting.passwords import add_user

PUBLIC = "vetting.example:8443"  # what the people's browsers call the proxy


class Proxy(threading.Thread):
    """A small reverse proxy on loopback: one request a connection, websockets passed on.

    Parameters
    ----------
    target : int
        The port of the server behind it.
    stripped : str
        What is taken off the front of a path, as jupyter-server-proxy does; "" passes paths on as they are.
    host : str or None
        The Host header that it passes on; by default as it came.
    """

    def __init__(self, target, stripped="", host=None):
        super().__init__(daemon=True)
        self.target, self.stripped, self.host = target, stripped, host
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with closing(client), closing(socket.create_connection(("127.0.0.1", self.target))) as server:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := client.recv(65536)):
                    return
                head += part
            head, body = head.split(b"\r\n\r\n", 1)
            first, *headers = head.decode("latin-1").split("\r\n")
            verb, path, version = first.split(" ")
            is_websocket = any(line.lower().startswith("upgrade:") for line in headers)
            headers = [line for line in headers if is_websocket or not line.lower().startswith("connection:")]
            if self.host:
                headers = [f"Host: {self.host}" if line.lower().startswith("host:") else line for line in headers]
            headers += ["X-Forwarded-Proto: https", *([] if is_websocket else ["Connection: close"])]
            first = f"{verb} {path.removeprefix(self.stripped) or '/'} {version}"
            server.sendall("\r\n".join([first, *headers, "", ""]).encode("latin-1") + body)
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join()


def pump(source, sink):
    """Pass bytes on until the source ends."""
    try:
        while part := source.recv(65536):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # either side is gone
        return


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    rng, n, of = np.random.default_rng(0), 12, "object"
    flux, pixels = rng.normal(size=(n, 50)).astype("f4"), (of, "wavelength_rest")
    columns = dict.fromkeys(("ra", "dec", "redshift", "redshift_err"), np.ones(n))
    columns |= {"targetid": 2**53 + 1 + 2 * np.arange(n), "redshift_warning": np.zeros(n, "i8")}
    columns |= {"snr": np.ones(n, "f4"), "anomaly_score": np.linspace(2, 1, n).astype("f4")}
    columns |= {"anomaly_rank": np.arange(1, n + 1, dtype="i4")}
    columns |= {k: np.full(n, v, object) for k, v in (("survey", "main"), ("reasons", "odd"), ("spectype", "QSO"))}
    ranked = xr.Dataset(
        {"flux": (pixels, flux), "ivar": (pixels, np.ones_like(flux)), "flux_model": (pixels, flux)}
        | {"latent": ((of, "latent_dim"), rng.normal(size=(n, 4)).astype("f4"))},
        coords={"wavelength_rest": np.linspace(1300, 2800, 50)} | {k: (of, v) for k, v in columns.items()},
    )
    save_spectra(ranked, folder / "top.zarr", keep_order=True)
    ranking_table(ranked).drop(columns="name").to_parquet(folder / "ranking.parquet")
    record = {"template": "rank_anomalies", "started": "2026-01-01T00:00:00+00:00", "status": "succeeded"}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def start(run_dir, folder, *options, **environment):
    """Start the command in a process of its own; return it and its port once it answers."""
    command = [sys.executable, "-c", "from astrolab.cli import main; main()", "vet", str(run_dir), *options]
    log_path = folder / "server.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
    deadline = time.monotonic() + 120
    while not (found := re.search(r"http://127\.0\.0\.1:(\d+)(/\S*)", log_path.read_text())):
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return process, int(found.group(1)), found.group(2)


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
        )
        yield browser
        browser.close()


def vet_one(browser, address, login=None):
    """Open the page, log in if asked, store a verdict by its key, reload; every problem of the page is returned."""
    problems = []
    view = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
    view.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    view.on("pageerror", lambda e: problems.append(str(e)))
    view.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    view.goto(address)
    if login:
        view.get_by_label("Name").fill(login)
        view.get_by_label("Password").fill(f"secret of {login}")
        view.get_by_role("button", name="Log in").click()
    for _ in range(2):
        view.locator("dialog").wait_for(state="attached", timeout=60_000)
        view.locator("#current-verdict").wait_for()
        view.keyboard.press("a")
        view.get_by_text(re.compile(r"stored ✓ \d\d:\d\d:\d\d UTC")).wait_for()
        view.reload()
    assert view.url.startswith(address)
    view.context.close()
    return problems


def knock(port, path, host, origin):
    """Return the first line of the answer to a websocket's knock at a proxy."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade", f"Origin: {origin}"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return connection.recv(1000).split(b"\r\n")[0]


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_proxy_that_passes_the_path_on(run_dir, tmp_path, browser):
    add_user(tmp_path / "users.json", "vera", "vetter", "secret of vera")
    options = ["--auth", "basic", "--users", str(tmp_path / "users.json"), "--prefix", "/team/vetting/"]
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    proxy = Proxy(port)
    origins = f"{PUBLIC},127.0.0.1:{proxy.port}"
    home = {"ASTROLAB_HOME": str(tmp_path / "home"), "BOKEH_ALLOW_WS_ORIGIN": origins}
    process, _, path = start(run_dir, tmp_path, "--port", str(port), *options, **home)
    try:
        proxy.start()
        assert path == "/team/vetting/"
        assert vet_one(browser, f"http://127.0.0.1:{proxy.port}/team/vetting/", "vera") == []
        for origin in ("https://evil.example", f"http://127.0.0.1:{port}", "null"):
            assert b" 403 " in knock(proxy.port, "/team/vetting/ws", PUBLIC, origin), origin
        assert b" 404 " in knock(proxy.port, "/ws", PUBLIC, f"https://{PUBLIC}")
    finally:
        process.terminate()
        process.wait(timeout=20)
        proxy.listener.close()


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_proxy_that_takes_the_path_off(run_dir, tmp_path, browser):
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    proxy = Proxy(port, stripped=f"/user/vera/proxy/{port}")  # as jupyter-server-proxy does
    home = {"ASTROLAB_HOME": str(tmp_path / "home"), "BOKEH_ALLOW_WS_ORIGIN": f"127.0.0.1:{proxy.port}"}
    process, *_ = start(run_dir, tmp_path, "--port", str(port), **home)
    try:
        proxy.start()
        assert vet_one(browser, f"http://127.0.0.1:{proxy.port}/user/vera/proxy/{port}/") == []
        assert b" 403 " in knock(proxy.port, f"/user/vera/proxy/{port}/ws", PUBLIC, "https://evil.example")
    finally:
        process.terminate()
        process.wait(timeout=20)
        proxy.listener.close()


def test_a_prefix_that_is_no_path_is_refused():
    assert check_prefix("a/b") == "/a/b"
    for wrong in ("/a b", "/..", "/a/<script>", "http://x", "/%2e%2e"):
        with pytest.raises(ValueError, match="expected a path such as /vetting"):
            check_prefix(wrong)
