"""Behind a proxy: pages, logins and websockets work under a path, and no other site gets in."""

import re
import socket
import threading
from contextlib import closing, suppress

import pytest

from astrolab.dashboards.serve import check_prefix

PUBLIC = "vetting.example:8443"  # what the people's browsers call the proxy
PEOPLE = {"vera": "vetter"}


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

    def close(self):
        self.listener.close()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        """Serve one connection; as with any proxy, a browser that goes on knocking at a stopped server is let go."""
        with (
            closing(client),
            suppress(OSError),
            closing(socket.create_connection(("127.0.0.1", self.target))) as server,
        ):
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


def vet_one(visit, address, login=None):
    """Open the page, log in if asked, store a verdict by its key, reload; every problem of the page is returned."""
    problems = []
    view = visit(address, problems, login)
    for _ in range(2):
        view.locator("dialog").wait_for(state="attached", timeout=60_000)
        view.locator("#current-verdict").wait_for()
        view.keyboard.press("a")
        view.get_by_text(re.compile(r"stored ✓ \d\d:\d\d:\d\d UTC")).wait_for()
        view.reload()
    assert view.url.startswith(address)
    return problems


def knock(port, path, host, origin):
    """Return the first line of the answer to a websocket's knock at a proxy."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade", f"Origin: {origin}"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return connection.recv(1000).split(b"\r\n")[0]


@pytest.fixture
def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return probe.getsockname()[1]


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_proxy_that_passes_the_path_on(small_run, tmp_path, serve_vetting, visit, free_port):
    with closing(Proxy(free_port)) as proxy:
        origins = f"{PUBLIC},127.0.0.1:{proxy.port}"
        options = ["--port", str(free_port), "--prefix", "/team/vetting/"]
        server = serve_vetting(small_run, tmp_path, *options, people=PEOPLE, BOKEH_ALLOW_WS_ORIGIN=origins)
        with server as (address, _):
            proxy.start()
            assert address.endswith("/team/vetting/")
            assert vet_one(visit, f"http://127.0.0.1:{proxy.port}/team/vetting/", "vera") == []
            for origin in ("https://evil.example", f"http://127.0.0.1:{free_port}", "null"):
                assert b" 403 " in knock(proxy.port, "/team/vetting/ws", PUBLIC, origin), origin
            assert b" 404 " in knock(proxy.port, "/ws", PUBLIC, f"https://{PUBLIC}")
            # where the slash is forgotten too
            view = visit(f"http://127.0.0.1:{proxy.port}/team/vetting", [])
            assert view.url.startswith(f"http://127.0.0.1:{proxy.port}/team/vetting/login?")


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_a_proxy_that_takes_the_path_off(small_run, tmp_path, serve_vetting, visit, free_port):
    path = f"/user/vera/proxy/{free_port}/"  # as jupyter-server-proxy has it, which also mends redirects: this does not
    with closing(Proxy(free_port, stripped=path[:-1])) as proxy:
        origin = f"127.0.0.1:{proxy.port}"
        server = serve_vetting(
            small_run, tmp_path, "--port", str(free_port), people=PEOPLE, BOKEH_ALLOW_WS_ORIGIN=origin
        )
        with server:
            proxy.start()
            address, problems = f"http://{origin}{path}", []
            assert vet_one(visit, f"{address}?theme=dark", "vera") == []
            assert b" 403 " in knock(proxy.port, f"{path}ws", PUBLIC, "https://evil.example")

            view = visit(f"{address}explore?theme=dark", problems)
            view.get_by_label("Name").fill("vera")
            view.get_by_label("Password").fill("wrong")
            view.get_by_role("button", name="Log in").click()
            view.get_by_text("The name or the password is wrong.").wait_for()
            view.get_by_label("Name").fill("vera")
            view.get_by_label("Password").fill("secret of vera")
            view.get_by_role("button", name="Log in").click()
            view.wait_for_url(f"{address}explore?theme=dark")  # what was asked for at first
            (cookie,) = view.context.cookies(address)
            assert (cookie["path"], cookie["httpOnly"], cookie["secure"]) == (path[:-1], True, True)
            assert problems == []


def test_a_prefix_that_is_no_path_is_refused():
    assert check_prefix("a/b") == "/a/b"
    for wrong in ("/a b", "/..", "/a/<script>", "http://x", "/%2e%2e"):
        with pytest.raises(ValueError, match="expected a path such as /vetting"):
            check_prefix(wrong)
