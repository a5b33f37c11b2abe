"""airflow_api and celery_ping: what is sent, what is returned, and every way in which it can fail."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import Api, ApiError, seconds
from ansible_collections.dataops.airflow.plugins.module_utils.celery_ping import PingError, ping

BROKER = "redis://airflow:s3cr3t@db1/0"
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
def python(tmp_path: Path) -> Path:
    """An interpreter whose Celery has two workers, and breaks at a broker called `broken`."""
    (tmp_path / "celery.py").write_text(
        "import pathlib, sys, types\n"
        "class Celery:\n"
        "    def __init__(self, broker):\n"
        "        self.broker, self.conf, self.control = broker, types.SimpleNamespace(), self\n"
        "    def ping(self, destination=None, timeout=1.0, limit=None):\n"
        "        if 'broken' in self.broker:\n"
        "            raise OSError('WRONGPASS invalid username-password pair')\n"
        "        if 'mute' in self.broker:\n"
        "            sys.exit(1)\n"
        "        workers = ['celery@worker2', 'celery@worker1']\n"
        "        return [{w: {'ok': 'pong'}} for w in workers if destination is None or w in destination][:limit]\n"
    )
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\necho "$@" > "$0.arguments"\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def test_workers_that_answer(python: Path) -> None:
    assert ping(str(python), BROKER) == ["celery@worker2", "celery@worker1"]
    assert ping(str(python), BROKER, "celery@worker1") == ["celery@worker1"]
    assert ping(str(python), BROKER, "celery@worker3") == []
    # A worker without a name is not every worker.
    assert ping(str(python), BROKER, "") == []
    assert BROKER not in Path(f"{python}.arguments").read_text()


def test_a_broker_that_cannot_be_asked(python: Path) -> None:
    with pytest.raises(PingError, match=r"^OSError: WRONGPASS invalid username-password pair$"):
        ping(str(python), f"{BROKER}?broken")
    with pytest.raises(PingError, match=r"^no answer$"):
        ping(str(python), f"{BROKER}?mute")
