"""`make audit` and `make licences`, with a stand-in for the service that knows of vulnerabilities."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK = "colorama==0.4.6 --hash=sha256:4f1d9991f5acc0ca119f9d443620b77f9d6b33703e51011c16baf57afb285fc6\n"
FOUND = {
    "id": "TEST-2026-1",
    "summary": "It is bad.",
    "details": "It is bad.",
    "affected": [
        {
            "package": {"name": "colorama", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.4.7"}]}],
            "versions": ["0.4.6"],
        }
    ],
}


class Service(ThreadingHTTPServer):
    """Answers each question with the same vulnerabilities."""

    answer: Mapping[str, object] = MappingProxyType({})
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    """One question."""

    server: Service

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(question["package"]["name"])
        body = json.dumps(dict(self.server.answer)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    """The stand-in."""
    with Service(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make(target: str, lock: Path, url: str = "") -> subprocess.CompletedProcess[str]:
    """Run a target for a lock."""
    options = [f"AUDIT_OPTIONS=--vulnerability-service osv --osv-url {url} --timeout 5"] if url else []
    return subprocess.run(
        ["make", "--no-print-directory", target, f"LOCK={lock}", *options],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock of one package."""
    (tmp_path / "lock.txt").write_text(LOCK)
    return tmp_path / "lock.txt"


def test_an_audit_tells_of_vulnerabilities_and_of_none(service: Service, lock: Path) -> None:
    url = f"http://127.0.0.1:{service.server_port}/v1/query"
    good = make("audit", lock, url)
    assert good.returncode == 0, good.stderr
    assert "No known vulnerabilities found" in good.stderr
    service.answer = {"vulns": [FOUND]}
    bad = make("audit", lock, url)
    assert bad.returncode != 0
    assert "TEST-2026-1" in bad.stdout and "0.4.7" in bad.stdout
    assert service.asked == ["colorama"] * 2


def test_an_audit_that_reaches_nobody_is_no_good_news(lock: Path) -> None:
    assert make("audit", lock, "http://127.0.0.1:9/v1/query").returncode != 0


def test_licences_of_a_lock(lock: Path) -> None:
    done = make("licences", lock)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["colorama", "0.4.6", "BSD", "License"]
