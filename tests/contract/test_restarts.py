"""Which hosts are restarted together: the real expressions of the roles, on hosts that only say what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from .collection import CHECKOUT, run_play

STALE = {"stopped": [], "attention": ["airflow-worker.service"]}
QUIET: dict[str, list[str]] = {"stopped": [], "attention": []}
ABSENT = {"stopped": ["airflow-worker.service"], "attention": ["airflow-worker.service"]}
CONTROL = {"stopped": ["airflow-flower.service"], "attention": ["airflow-scheduler.service", "airflow-flower.service"]}
EXECUTOR = {"stopped": [], "attention": ["airflow-scheduler.service", "airflow-worker.service"]}


def batches(folder: Path, serial: str | int, states: dict[str, dict[str, list[str]]]) -> list[list[str]]:
    """The batches, in order, for hosts in these states; a host named control... has the control components."""
    control = [host for host in states if host.startswith("control")]
    workers = [host for host in states if host.startswith("worker")]
    groups: dict[str, Any] = {
        **{name: {"hosts": dict.fromkeys(control)} for name in ("schedulers", "webservers", "dag_processors")},
        "workers": {"hosts": dict.fromkeys(workers)},
    }
    hosts = {host: {"__airflow_state": state} for host, state in states.items()}
    shared = {"airflow_executor": "", "airflow_worker_serial": serial}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups, "vars": shared}}))
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.include_vars": str(CHECKOUT / "roles" / role / "vars" / "main.yml")}
        for role in ("cluster", "airflow")
    ]
    write = {"content": "{{ __airflow_restart_batches | to_json }}", "dest": str(folder / "found.json")}
    tasks.append({"ansible.builtin.copy": write, "run_once": True})
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    done = run_play(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[list[str]] = yaml.safe_load((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize(
    ("serial", "states", "expected"),
    [
        ("25%", {"control1": QUIET, "worker1": QUIET}, []),
        ("25%", {"control1": QUIET, "worker1": STALE, "worker2": ABSENT}, [["worker1"]]),
        (
            "25%",
            {"control1": CONTROL, "control2": EXECUTOR, "worker1": STALE, "worker2": STALE},
            [["control1"], ["control2"], ["worker1"], ["worker2"]],
        ),
        (
            "50%",
            {"control1": QUIET, **{f"worker{n}": STALE for n in range(1, 5)}},
            [["worker1", "worker2"], ["worker3", "worker4"]],
        ),
        (
            "100%",
            {"control1": QUIET, **{f"worker{n}": STALE for n in range(1, 4)}},
            [["worker1", "worker2"], ["worker3"]],
        ),
        (
            3,
            {"control1": QUIET, **{f"worker{n}": STALE for n in range(1, 5)}},
            [["worker1", "worker2", "worker3"], ["worker4"]],
        ),
    ],
    ids=["nothing", "not running", "one by one", "half", "all, but for the last of their queue", "a number"],
)
def test_batches(tmp_path: Path, serial: str | int, states: dict[str, Any], expected: list[list[str]]) -> None:
    assert batches(tmp_path, serial, states) == expected
