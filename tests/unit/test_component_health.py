"""component_health: each way of asking, patience, and the report when the patience is over."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import component_health

BEAT = "2026-01-01T12:00:00.500000+00:00"
BEAT_SECONDS = 1767268800.5
SECRET = "redis://airflow:s3cr3t-broker@db1/0"  # noqa: S105


class Server(BaseHTTPRequestHandler):
    """Answers /ok, /monitor, /later (well from the third time on), /broken (not HTTP), and 503 to anything else."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        monitor = {
            "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": BEAT},
            "triggerer": {"status": None},
        }
        body = json.dumps(monitor).encode() if self.path == "/monitor" else b"fine"
        if self.path == "/broken":
            self.wfile.write(b"nonsense\r\n\r\n")
            return
        well = self.path in ("/ok", "/monitor") or (self.path == "/later" and self.asked.count("/later") > 2)
        self.send_response(200 if well else 503, "" if self.path == "/silent" else None)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Address of a server in this process."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter whose Celery knows one worker, and breaks at a broker called `broken`."""
    package = tmp_path / "celery"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import types\n"
        "class Celery:\n"
        "    def __init__(self, broker):\n"
        "        self.broker, self.conf = broker, types.SimpleNamespace()\n"
        "        self.control = self\n"
        "    def ping(self, destination, timeout, limit):\n"
        "        if 'broken' in self.broker:\n"
        "            raise OSError('WRONGPASS invalid username-password pair')\n"
        "        return [w for w in destination if w == 'celery@worker1' and 's3cr3t' in self.broker]\n"
    )
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


def check(kind: str, name: str = "it", **options: str) -> dict[str, Any]:
    return {"name": name, "unit": f"airflow-{name}.service", "kind": kind, **options}


def call(capsys: pytest.CaptureFixture[str], *checks: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Run the module in this process; its JSON answer."""
    capsys.readouterr()
    with patch_module_args({"checks": list(checks), "timeout": 0, **options}), pytest.raises(SystemExit):
        component_health.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_healthy_components_are_timed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, check("http", "a", url=f"{url}/ok"), check("http", "b", url=f"{url}/ok"))
    assert answer["changed"] is False and answer["unhealthy"] == {}
    assert set(answer["healthy"]) == {"a", "b"} and all(seconds < 5 for seconds in answer["healthy"].values())
    assert call(capsys)["healthy"] == {}


def test_it_waits(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Server.asked.clear()
    answer = call(capsys, check("http", url=f"{url}/later"), timeout=20)
    assert answer["unhealthy"] == {} and Server.asked == ["/later"] * 3


def test_the_unhealthy_are_named_with_the_next_step(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, check("http", "good", url=f"{url}/ok"), check("http", "bad", url=f"{url}/no"))
    assert answer["failed"] is True
    assert list(answer["healthy"]) == ["good"] and list(answer["unhealthy"]) == ["bad"]
    assert "bad: Service Unavailable; see: journalctl -u airflow-bad.service -n 50" in answer["msg"]
    assert "good" not in answer["msg"]


def test_a_refusal_without_words_is_trouble(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "503" in call(capsys, check("http", url=f"{url}/silent"))["unhealthy"]["it"]


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, check("http", url="http://127.0.0.1:1/"))
    assert "refused" in answer["unhealthy"]["it"]


def test_an_answer_that_is_not_http_is_trouble(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, check("http", "bad", url=f"{url}/broken"), check("http", "good", url=f"{url}/ok"))
    assert list(answer["unhealthy"]) == ["bad"] and list(answer["healthy"]) == ["good"]


def test_heartbeats_are_judged() -> None:
    monitor = {
        "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": BEAT},
        "zulu": {"status": "healthy", "latest_zulu_heartbeat": BEAT.replace("+00:00", "Z")},
        "silent": {"status": "healthy", "latest_silent_heartbeat": None},
        "ill": {"status": "unhealthy", "latest_ill_heartbeat": BEAT},
    }
    assert component_health.heartbeat_trouble(monitor, "scheduler", BEAT_SECONDS - 1) == ""
    assert component_health.heartbeat_trouble(monitor, "zulu", BEAT_SECONDS - 1) == ""
    assert component_health.heartbeat_trouble(monitor, "scheduler", BEAT_SECONDS + 1) == "no heartbeat since its start"
    assert component_health.heartbeat_trouble(monitor, "silent", 0) == "no heartbeat since its start"
    assert component_health.heartbeat_trouble(monitor, "ill", 0) == "the API server's monitor says unhealthy"
    assert component_health.heartbeat_trouble(monitor, "missing", 0) == "the API server's monitor says None"


@pytest.mark.parametrize(("printed", "seconds"), [("@1767268800", 1767268800.0), ("", 0.0), ("n/a", 0.0), ("@", 0.0)])
def test_start_of_a_unit(printed: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho '{printed}'\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert component_health.unit_started("x.service") == seconds


def test_a_heartbeat_is_asked_for(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {"airflow-old.service": BEAT_SECONDS + 60}
    monkeypatch.setattr(component_health, "unit_started", lambda unit: started.get(unit, 0.0))
    answer = call(
        capsys,
        check("heartbeat", "new", url=f"{url}/monitor", component="scheduler"),
        check("heartbeat", "old", url=f"{url}/monitor", component="scheduler"),
        check("heartbeat", "text", url=f"{url}/ok", component="scheduler"),
    )
    assert list(answer["healthy"]) == ["new"]
    assert answer["unhealthy"]["old"] == "no heartbeat since its start"
    assert "text" in answer["unhealthy"]


def test_workers_are_pinged(python: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [check("celery", name, worker=f"celery@{name}") for name in ("worker1", "worker2")]
    answer = call(capsys, *checks, broker_url=SECRET, python=python)
    assert list(answer["healthy"]) == ["worker1"]
    assert answer["unhealthy"] == {"worker2": "no answer to a ping"}


def test_the_last_line_of_celerys_error_is_shown(python: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, check("celery", worker="celery@worker1"), broker_url=f"{SECRET}?broken", python=python)
    assert answer["unhealthy"] == {"it": "OSError: WRONGPASS invalid username-password pair"}
    assert SECRET not in json.dumps({key: answer[key] for key in ("msg", "healthy", "unhealthy")})


def test_a_missing_interpreter_is_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, check("celery", worker="celery@worker1"), broker_url=SECRET, python="/nonexistent/python")
    assert "No such file" in answer["unhealthy"]["it"]


def test_the_broker_url_is_not_an_argument(tmp_path: Path) -> None:
    spy = tmp_path / "python"
    spy.write_text('#!/bin/sh\necho "$@" > "$0.arguments"\n[ "$BROKER_URL" ]\n')
    spy.chmod(0o755)
    ask = component_health.celery_asker(str(spy), SECRET)
    assert ask({"worker": "celery@worker1"}) == ""
    assert SECRET not in (tmp_path / "python.arguments").read_text()


def test_all_components_are_asked_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    call(capsys, *(check("http", str(number), url="http://127.0.0.1:1/") for number in range(6)), timeout=1)
    assert time.monotonic() - start < 3
