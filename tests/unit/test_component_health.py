"""component_health: each way of asking, patience, its end when a unit has failed, and the report."""

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


@pytest.fixture(autouse=True)
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose file UNIT.state says how a unit is, `active` without one; UNIT.journal is what it wrote."""
    folder = tmp_path / "systemd"
    folder.mkdir()
    programs = {
        # The unit is the last argument.
        "systemctl": f'for unit; do :; done\ncat "{folder}/$unit.state" 2> /dev/null || echo active\n',
        "journalctl": f'[ "$1 $2 $4 $6 $7" = "--quiet -u -n -o cat" ] && tail -n "$5" "{folder}/$3.journal"\n',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


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
        "        assert self.conf.broker_connection_retry is False and limit == 1\n"
        "        return [{w: 'pong'} for w in destination if w == 'celery@worker1' and 's3cr3t' in self.broker]\n"
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


def test_only_health_is_written_down(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, good, bad = tmp_path / "healthy", check("http", "a", url=f"{url}/ok"), check("http", "b", url=f"{url}/no")
    assert call(capsys, good, bad, timeout=0, record=str(record))["failed"] is True
    assert call(capsys, good, record=str(record), _ansible_check_mode=True)["changed"] is False
    assert not record.exists()
    assert call(capsys, good, record=str(record))["changed"] is False
    assert record.exists()
    answer = call(capsys, good, record=str(tmp_path / "nowhere/healthy"))
    assert answer["msg"].startswith("healthy, but that cannot be written down: ")


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
def test_start_of_a_unit(printed: str, seconds: float, systemd: Path) -> None:
    (systemd / "systemctl").write_text(f"#!/bin/sh\necho '{printed}'\n")
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


@pytest.mark.parametrize(
    ("newest", "trouble"),
    [
        (("running", BEAT_SECONDS), ""),
        (("running", BEAT_SECONDS - 20), "no heartbeat since its start"),
        (("success", BEAT_SECONDS), "its job is in the state success"),
        (("running", None), "no heartbeat since its start"),
        (None, "no heartbeat since its start"),
    ],
)
def test_jobs_are_judged(newest: Any, trouble: str) -> None:
    started = BEAT_SECONDS - 10
    assert component_health.job_trouble(newest, started, BEAT_SECONDS + component_health.ALIVE) == trouble
    late = component_health.job_trouble(newest, started, BEAT_SECONDS + component_health.ALIVE + 1)
    assert late == (trouble or "no heartbeat for 31 s")


def test_each_host_is_asked_for_by_its_own_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component_health, "unit_started", lambda _unit: time.time() - 60)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\n[ "$DATABASE_URL" ] || exit 1\necho "$@" > "$0.arguments"\n'
        f'[ "$3 $4" = "TriggererJob control1" ] && echo \'["running", {time.time()}]\' && exit\n'
        '[ "$4" = control2 ] && echo null && exit\necho "FATAL: no pg_hba.conf entry" >&2\nexit 1\n'
    )
    python.chmod(0o755)
    hosts = ("control1", "control2", "control3")
    checks = [check("job", host, job="TriggererJob", host=host) for host in hosts]
    answer = call(capsys, *checks, database_url=SECRET, python=str(python))
    assert list(answer["healthy"]) == ["control1"]
    assert answer["unhealthy"] == {
        "control2": "no heartbeat since its start",
        "control3": "the metadata database cannot be asked: FATAL: no pg_hba.conf entry",
    }
    assert SECRET not in (tmp_path / "python.arguments").read_text()


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
    answer = '["celery@worker1"]'
    spy.write_text(f'#!/bin/sh\necho "$@" > "$0.arguments"\n[ "$BROKER_URL" ] && echo \'{answer}\'\n')
    spy.chmod(0o755)
    ask = component_health.celery_asker(str(spy), SECRET)
    assert ask({"worker": "celery@worker1"}) == ""
    assert SECRET not in (tmp_path / "python.arguments").read_text()


def test_all_components_are_asked_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    call(capsys, *(check("http", str(number), url="http://127.0.0.1:1/") for number in range(6)), timeout=1)
    assert time.monotonic() - start < 3


def test_a_failed_unit_ends_the_wait_for_all(url: str, systemd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (systemd / "airflow-dead.service.state").write_text("failed\n")
    (systemd / "airflow-dead.service.journal").write_text("".join(f"line {number}\n" for number in range(20)))
    checks = [check("http", name, url=f"{url}/{path}") for name, path in (("slow", "no"), ("dead", "no"), ("up", "ok"))]
    start = time.monotonic()
    answer = call(capsys, *checks, timeout=60)
    assert time.monotonic() - start < 10
    assert answer["failed"] is True and list(answer["healthy"]) == ["up"]
    journal = [f"line {number}" for number in range(20 - component_health.JOURNAL_LINES, 20)]
    assert answer["unhealthy"] == {"slow": "Service Unavailable", "dead": "\n".join(["its unit has failed", *journal])}
    first, *lines = answer["msg"].splitlines()
    assert first.startswith("not healthy after ") and first.endswith(" s, given up because a unit has failed:")
    assert lines == [
        "  slow: Service Unavailable; see: journalctl -u airflow-slow.service -n 50",
        "  dead: its unit has failed; see: journalctl -u airflow-dead.service -n 50",
        *(f"    {line}" for line in journal),
    ]


def test_a_unit_that_fails_later_is_noticed(url: str, systemd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = systemd / "airflow-it.service.state"
    fail = threading.Timer(1.5, state.write_text, ["failed\n"])
    fail.start()
    start = time.monotonic()
    answer = call(capsys, check("http", url=f"{url}/no"), timeout=60)
    assert 1.5 <= time.monotonic() - start < 15
    # Nothing is in its journal.
    assert answer["unhealthy"] == {"it": "its unit has failed"}


@pytest.mark.parametrize("state", ["activating", "inactive", "active", ""])
def test_a_unit_that_may_still_come_is_waited_for(
    state: str, url: str, systemd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (systemd / "airflow-it.service.state").write_text(f"{state}\n")
    Server.asked.clear()
    assert call(capsys, check("http", url=f"{url}/later"), timeout=20)["unhealthy"] == {}


def test_who_answers_well_is_healthy_whatever_its_unit_says(
    url: str, systemd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (systemd / "airflow-it.service.state").write_text("failed\n")
    assert call(capsys, check("http", url=f"{url}/ok"))["unhealthy"] == {}


def test_a_host_without_systemds_commands(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    answer = call(capsys, check("http", url=f"{url}/no"))
    assert answer["unhealthy"] == {"it": "Service Unavailable"}
    assert answer["msg"].startswith("not healthy after 0 s:\n")


def test_a_database_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(component_health, "PATIENCE", 0.2)
    ask = component_health.job_asker(str(silent), "postgresql://")
    assert (
        ask({"job": "TriggererJob", "host": "10.0.0.1", "unit": "x"}) == "the metadata database says nothing for 0.2 s"
    )
