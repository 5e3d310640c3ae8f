"""Nobody sees or says anything without a login: passwords, page, websocket, tokens, origins."""

import http.client
import http.cookiejar
import json
import re
import socket
import stat
import urllib.parse
import urllib.request

import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id

from astrolab.dashboards.serve import serve_runs
from astrolab.vetting.passwords import PasswordFile, add_user

# Bokeh calls pandas in a way that pandas is about to give up
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")


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


def test_a_login_that_is_not_configured_says_so(small_run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected --auth basic --users FILE"):
        serve_runs([small_run], auth="basic")
    with pytest.raises(ValueError, match="--auth none was given a password file"):
        serve_runs([small_run], users_path=tmp_path / "users.json")
    for name in ("PROVIDER", "KEY", "SECRET"):
        monkeypatch.delenv(f"PANEL_OAUTH_{name}", raising=False)
    with pytest.raises(ValueError, match=r"needs PANEL_OAUTH_PROVIDER, .* in the environment, expected Panel's"):
        serve_runs([small_run], auth="oauth")
    monkeypatch.setenv("BOKEH_ALLOW_WS_ORIGIN", "*")
    add_user(tmp_path / "users.json", "vera", "vetter", "secret")
    with pytest.raises(ValueError, match="lets every web page in"):
        serve_runs([small_run], auth="basic", users_path=tmp_path / "users.json")


@pytest.fixture(scope="module")
def server(small_run, tmp_path_factory, serve_vetting):
    folder = tmp_path_factory.mktemp("server")
    people = dict.fromkeys(("vera", "edwin", "gone"), "vetter")
    with serve_vetting(small_run, folder, people=people) as (address, _):
        yield address, folder / "users.json"


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


def test_a_login_leads_to_no_other_server(server):
    address, _ = server
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
    for asked in ("./explore?a=1", "//evil.example", "https://evil.example", "./\\evil.example", "/", ""):
        form = urllib.parse.urlencode({"username": "vera", "password": "secret of vera", "next": asked})
        connection.request("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        answer.read()
        assert answer.headers["Location"] == (asked if asked.startswith("./e") else "./")
    connection.request("GET", '/login?next="><script>')
    assert "<script>" not in connection.getresponse().read().decode()
    connection.close()


def test_oauth_sends_people_to_their_provider(small_run, tmp_path, serve_vetting):
    urls = {name: f"http://127.0.0.1:9/{name}" for name in ("AUTHORIZE_URL", "TOKEN_URL", "USER_URL")}
    environment = {
        "PANEL_OAUTH_PROVIDER": "generic",
        "PANEL_OAUTH_KEY": "astrolab",
        "PANEL_OAUTH_SECRET": "secret",
        "PANEL_COOKIE_SECRET": "0" * 40,
        "PANEL_OAUTH_OPTIONAL": "1",  # no guests, whatever this says
        "PANEL_OAUTH_EXTRA_PARAMS": repr(urls | {"USER_KEY": "name"}),
    }
    with serve_vetting(small_run, tmp_path, "--auth", "oauth", **environment) as (address, _):
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
        for path, leads_to in (("/", "login"), ("/login", urls["AUTHORIZE_URL"])):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 302
            assert leads_to in answer.headers["Location"]
        connection.close()
        assert b" 403 " in knock(address, "nonsense").split(b"\r\n")[0]
