"""Nobody sees or says anything without a login: passwords, page, websocket, tokens, origins."""

import http.client
import http.cookiejar
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
import xarray as xr
from bokeh.util.token import generate_jwt_token, generate_session_id

from astrolab.dashboards.serve import serve_runs
from astrolab.plots import ranking_table
from astrolab.stores.spectra import save_spectra
from astrolab.vetting.passwords import PasswordFile, add_user

# Bokeh calls pandas in a way that pandas is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    rng, n, of = np.random.default_rng(0), 12, "object"
    flux = rng.normal(size=(n, 50)).astype("f4")
    pixels = (of, "wavelength_rest")
    columns = dict.fromkeys(("ra", "dec", "redshift", "redshift_err", "snr", "score_chi2", "score_latent"), np.ones(n))
    columns |= {"targetid": 2**53 + 1 + 2 * np.arange(n), "redshift_warning": np.zeros(n, "i8")}
    columns |= {"anomaly_score": np.linspace(2, 1, n), "anomaly_rank": np.arange(1, n + 1, dtype="i4")}
    columns |= {name: np.full(n, text, object) for name, text in (("survey", "main"), ("reasons", "odd"))}
    columns["snr"] = np.ones(n, "f4")
    columns["anomaly_score"] = columns["anomaly_score"].astype("f4")
    columns["spectype"] = np.full(n, "QSO", object)
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


def test_passwords_are_hashed_and_private(tmp_path):
    path = tmp_path / "users.json"
    add_user(path, "vera", "vetter", "correct horse")
    add_user(path, "lea", "lead", "battery staple")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "horse" not in path.read_text()
    users = PasswordFile(path)
    secret = users.cookie_secret
    assert users.is_password("vera", "correct horse")
    for name, password in (("vera", "battery staple"), ("vera", ""), ("nobody", "correct horse"), ("", "")):
        assert not users.is_password(name, password)
    assert (users.role_of("lea"), users.role_of("nobody")) == ("lead", None)
    add_user(path, "vera", "admin", "new")  # no restart
    assert users.is_password("vera", "new")
    assert (users.role_of("vera"), users.cookie_secret) == ("admin", secret)
    path.chmod(0o644)
    with pytest.raises(ValueError, match=r"may be read by others \(mode 0644\), expected 0600: chmod 600"):
        PasswordFile(path)


def test_files_and_names_that_cannot_be_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read .*make one: astrolab users add"):
        PasswordFile(tmp_path / "none.json")
    path = tmp_path / "users.json"
    for text in ("", "[]", "{}", '{"version": 1, "cookie_secret": "short", "users": {}}'):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(ValueError, match="is no password file"):
            PasswordFile(path)
    for name in ("", " vera", "a\nb", "x" * 65):
        with pytest.raises(ValueError, match="the name is"):
            add_user(tmp_path / "new.json", name, "vetter", "secret")
    with pytest.raises(ValueError, match="role is 'root'"):
        add_user(tmp_path / "new.json", "vera", "root", "secret")
    with pytest.raises(ValueError, match="password is empty"):
        add_user(tmp_path / "new.json", "vera", "vetter", "")
    assert not (tmp_path / "new.json").exists()


def test_a_login_that_is_not_configured_says_so(run_dir, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected --auth basic --users FILE"):
        serve_runs([run_dir], auth="basic")
    with pytest.raises(ValueError, match="--auth none was given a password file"):
        serve_runs([run_dir], users_path=tmp_path / "users.json")
    for name in ("PROVIDER", "KEY", "SECRET"):
        monkeypatch.delenv(f"PANEL_OAUTH_{name}", raising=False)
    with pytest.raises(ValueError, match=r"needs PANEL_OAUTH_PROVIDER, .* in the environment, expected Panel's"):
        serve_runs([run_dir], auth="oauth")
    monkeypatch.setenv("BOKEH_ALLOW_WS_ORIGIN", "*")
    add_user(tmp_path / "users.json", "vera", "vetter", "secret")
    with pytest.raises(ValueError, match="lets every web page in"):
        serve_runs([run_dir], auth="basic", users_path=tmp_path / "users.json")


def start(run_dir, folder, *options, **environment):
    """Start the command in a process of its own; return it and its address once it answers."""
    command = [sys.executable, "-c", "from astrolab.cli import main; main()", "vet", str(run_dir), *options]
    log_path = folder / "server.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
    deadline = time.monotonic() + 120
    while not (found := re.search(r"http://127\.0\.0\.1:\d+/", log_path.read_text())):
        assert process.poll() is None, log_path.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return process, found.group()


@pytest.fixture(scope="module")
def server(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    for name, role in (("vera", "vetter"), ("edwin", "vetter"), ("gone", "vetter")):
        add_user(folder / "users.json", name, role, f"secret of {name}")
    home = {"ASTROLAB_HOME": str(folder / "home")}
    process, address = start(run_dir, folder, "--auth", "basic", "--users", str(folder / "users.json"), **home)
    try:
        yield address, folder / "users.json"
    finally:
        process.terminate()
        process.wait(timeout=20)


def visitor():
    cookies = http.cookiejar.CookieJar()
    return urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies)), cookies


def log_in(address, name, password):
    """Log in as a browser does; return the page that comes then, and the cookies."""
    opener, cookies = visitor()
    opener.open(address, timeout=60).read()
    form = urllib.parse.urlencode({"username": name, "password": password}).encode()
    page = opener.open(address + "login", form, timeout=60).read().decode()
    return page, "; ".join(f"{c.name}={c.value}" for c in cookies)


def token_of(page):
    return re.search(r'"token":\s*"([^"]+)"', page).group(1)


def knock(address, token, cookie="", origin=None):
    """Return the first line of the answer to a websocket's knock."""
    port = int(re.search(r":(\d+)/", address).group(1))
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"Sec-WebSocket-Protocol: bokeh, {token}",
        f"Origin: {origin or f'http://127.0.0.1:{port}'}",
        *([f"Cookie: {cookie}"] if cookie else []),
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = connection.recv(2000)
        if b" 101 " in answer.split(b"\r\n")[0]:  # a refusal may also close it after the handshake: nothing is said
            connection.settimeout(10)
            answer += connection.recv(2000) if answer.endswith(b"\r\n\r\n") else b""
    return answer


def is_open(answer):
    return b" 101 " in answer.split(b"\r\n")[0] and b"ACK" in answer


def test_page_and_socket_want_a_login(server):
    address, users_path = server
    page = visitor()[0].open(address, timeout=60).read().decode()
    assert "Password" in page
    assert '"token"' not in page
    wrong, _ = log_in(address, "vera", "secret of edwin")
    assert "The name or the password is wrong" in wrong

    page, cookie = log_in(address, "vera", "secret of vera")
    token = token_of(page)
    assert "vetter: vera" in page
    assert is_open(knock(address, token, cookie))

    edwins_page, edwins_cookie = log_in(address, "edwin", "secret of edwin")
    forged = generate_jwt_token(generate_session_id(), extra_payload={"cookies": {"user": cookie.split("=", 1)[1]}})
    refused = {
        "no cookie": knock(address, token),
        "another's token": knock(address, token, edwins_cookie),
        "one's cookie, another's token": knock(address, token_of(edwins_page), cookie),
        "a forged token": knock(address, forged, cookie),
        "a forged cookie": knock(address, token, "user=dmVyYQ=="),
        "no token": knock(address, "nonsense", cookie),
        "a foreign page": knock(address, token, cookie, origin="http://evil.example"),
    }
    for why, answer in refused.items():
        assert not is_open(answer), why
        assert b" 403 " in answer.split(b"\r\n")[0] or why == "a forged token", (why, answer)

    page, cookie = log_in(address, "gone", "secret of gone")
    content = json.loads(users_path.read_text())
    del content["users"]["gone"]
    users_path.write_text(json.dumps(content))
    assert not is_open(knock(address, token_of(page), cookie))  # out at once
    request = urllib.request.Request(address, headers={"Cookie": cookie})
    assert "Password" in urllib.request.urlopen(request, timeout=60).read().decode()


def test_oauth_sends_people_to_their_provider(run_dir, tmp_path):
    urls = {name: f"http://127.0.0.1:9/{name}" for name in ("AUTHORIZE_URL", "TOKEN_URL", "USER_URL")}
    environment = {
        "PANEL_OAUTH_PROVIDER": "generic",
        "PANEL_OAUTH_KEY": "astrolab",
        "PANEL_OAUTH_SECRET": "secret",
        "PANEL_COOKIE_SECRET": "0" * 40,
        "PANEL_OAUTH_OPTIONAL": "1",  # no guests, whatever this says
        "PANEL_OAUTH_EXTRA_PARAMS": repr(urls | {"USER_KEY": "name"}),
    }
    process, address = start(run_dir, tmp_path, "--auth", "oauth", **environment)
    try:
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
        for path, leads_to in (("/", "login"), ("/login", urls["AUTHORIZE_URL"])):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 302
            assert leads_to in answer.headers["Location"]
        connection.close()
        assert b" 403 " in knock(address, "nonsense").split(b"\r\n")[0]
    finally:
        process.terminate()
        process.wait(timeout=20)
