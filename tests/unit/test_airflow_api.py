"""airflow_api: what is sent, what is returned, and every way in which it can fail."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ansible_collections.dataops.airflow.plugins.doc_fragments.api import ModuleDocFragment
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import LOGIN_OPTIONS, Api, ApiError, seconds
from certificates import Pair, make

# path -> status and body
ANSWERS = {
    "/auth/token": (201, b'{"access_token": "t0ken"}'),
    "/good": (200, b'{"version": "3.3.2"}'),
    "/empty": (204, b""),
    "/html": (200, b"<html>"),
    "/refused": (403, b"no " * 200),
}


class Server(BaseHTTPRequestHandler):
    """Answers as ANSWERS says and remembers what it was asked; /broken is not HTTP."""

    asked: ClassVar[list[tuple[str, str, str | None, Any]]] = []
    login: ClassVar[tuple[int, bytes]] = ANSWERS["/auth/token"]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        content = json.loads(body) if body else None
        self.asked.append((self.command, self.path, self.headers["Authorization"], content))
        if self.path == "/broken":
            self.wfile.write(b"nonsense\r\n\r\n")
            return
        status, text = self.login if self.path == "/auth/token" else ANSWERS[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_PUT = do_GET  # noqa: N815  the names that http.server wants

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the API; the environment names a proxy that is not there."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    Server.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_login_gives_the_token_of_what_follows(url: str) -> None:
    api = Api(url)
    assert api.ask("GET", "/good") == {"version": "3.3.2"}
    api.login("admin", "p@ss")
    assert api.ask("PUT", "/empty", {"a": None}) is None
    assert Server.asked == [
        ("GET", "/good", None, None),
        ("POST", "/auth/token", None, {"username": "admin", "password": "p@ss"}),
        ("PUT", "/empty", "Bearer t0ken", {"a": None}),
    ]


def test_a_refusal_has_its_status(url: str) -> None:
    with pytest.raises(ApiError) as caught:
        Api(url).ask("GET", "/refused")
    assert caught.value.status == 403
    assert str(caught.value) == f"GET /refused answered 403: {(b'no ' * 100)!r}"


@pytest.mark.parametrize("path", ["/html", "/broken"])
def test_an_answer_of_something_else(path: str, url: str) -> None:
    with pytest.raises(ApiError, match=rf"{path} did not answer as Airflow's API does") as caught:
        Api(url).ask("GET", path)
    assert caught.value.status == 0


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"access_token": ""}', b""])
def test_a_login_without_a_token(body: bytes, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "login", (200, body))
    api = Api(url)
    with pytest.raises(ApiError, match="/auth/token did not answer as Airflow's API does"):
        api.login("admin", "p@ss")
    assert api.token == ""


def test_nobody_listens() -> None:
    with pytest.raises(ApiError, match=r"^http://127\.0\.0\.1:1 cannot be reached: ") as caught:
        Api("http://127.0.0.1:1").login("admin", "p@ss")
    assert caught.value.status == 0


def test_times() -> None:
    assert seconds("2026-01-01T12:00:00.500000+00:00") == seconds("2026-01-01T12:00:00.500000Z") == 1767268800.5
    assert seconds(None) == seconds("") == 0.0


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """Function that serves with a certificate, and returns the port."""
    servers = []

    def start(pair: Pair) -> int:
        (tmp_path / "server.pem").write_bytes(pair.pem + pair.key_pem())
        server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "server.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_only_the_named_authority_is_trusted(serve: Any, tmp_path: Path) -> None:
    ca, other = make("authority", authority=True), make("another", authority=True)
    for name, pair in (("ca", ca), ("other", other)):
        (tmp_path / f"{name}.pem").write_bytes(pair.pem)
    port = serve(make("server", ("127.0.0.1",), ca))
    good = Api(f"https://127.0.0.1:{port}", ca_path=str(tmp_path / "ca.pem"))
    assert good.ask("GET", "/good") == {"version": "3.3.2"}
    for path in (str(tmp_path / "other.pem"), ""):
        with pytest.raises(ApiError, match="certificate verify failed"):
            Api(good.url, ca_path=path).ask("GET", "/good")
    with pytest.raises(ApiError, match="No such file"):
        Api(good.url, ca_path=str(tmp_path / "none.pem")).ask("GET", "/good")
    with pytest.raises(ApiError, match=r"cannot be reached|did not answer"):
        Api(good.url.replace("https:", "http:")).ask("GET", "/good")


def test_the_name_counts(serve: Any, tmp_path: Path) -> None:
    ca = make("authority", authority=True)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    port = serve(make("server", ("10.0.0.1", "db"), ca))
    with pytest.raises(ApiError, match="IP address mismatch"):
        Api(f"https://127.0.0.1:{port}", ca_path=str(tmp_path / "ca.pem")).ask("GET", "/good")


def test_the_login_of_modules_is_documented_as_it_is() -> None:
    told = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    for option in told.values():
        assert option.pop("description")
    taken = {
        name: {key: value for key, value in option.items() if key != "no_log"} for name, option in LOGIN_OPTIONS.items()
    }
    assert told == taken and LOGIN_OPTIONS["password"]["no_log"]
