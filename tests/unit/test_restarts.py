"""Which hosts are restarted together: the real expressions of the roles, on hosts that only say what they found."""

from __future__ import annotations

from typing import Any

import pytest
from expressions import evaluate

STALE = {"stopped": [], "attention": ["airflow-worker.service"]}
QUIET: dict[str, list[str]] = {"stopped": [], "attention": []}
SEVERAL = {"stopped": [], "attention": ["airflow-worker.service", "airflow-worker@gpu.service"]}
ABSENT = {"stopped": ["airflow-worker.service"], "attention": ["airflow-worker.service"]}
CONTROL = {"stopped": ["airflow-flower.service"], "attention": ["airflow-scheduler.service", "airflow-flower.service"]}
EXECUTOR = {"stopped": [], "attention": ["airflow-scheduler.service", "airflow-worker.service"]}


def batches(serial: str | int, states: dict[str, dict[str, list[str]]]) -> list[list[str]]:
    """The batches, in order, for hosts in these states; a host named control... has the control components."""
    control = [host for host in states if host.startswith("control")]
    groups = {
        "all": list(states),
        **dict.fromkeys(("schedulers", "webservers", "dag_processors"), control),
        "workers": [host for host in states if host.startswith("worker")],
    }
    found: list[list[str]] = evaluate(
        "{{ __airflow_restart_batches }}",
        ("cluster", "airflow"),
        {
            "groups": groups,
            "hostvars": {host: {"__airflow_state": state} for host, state in states.items()},
            "ansible_play_hosts": list(states),
            "airflow_executor": "",
            "airflow_worker_serial": serial,
        },
    )
    return found


@pytest.mark.parametrize(
    ("serial", "states", "expected"),
    [
        ("25%", {"control1": QUIET, "worker1": QUIET}, []),
        ("25%", {"control1": QUIET, "worker1": STALE, "worker2": ABSENT}, [["worker1"]]),
        ("100%", {"control1": QUIET, "worker1": SEVERAL, "worker2": QUIET, "worker3": STALE}, [["worker1", "worker3"]]),
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
    ids=[
        "nothing",
        "not running",
        "several on one host",
        "one by one",
        "half",
        "all, but for the last of their queue",
        "a number",
    ],
)
def test_batches(serial: str | int, states: dict[str, Any], expected: list[list[str]]) -> None:
    assert batches(serial, states) == expected


@pytest.mark.parametrize(
    ("executor", "stale", "first"),
    [
        ("CeleryExecutor", ["scheduler", "api-server", "flower"], ["api-server"]),
        ("CeleryExecutor", ["scheduler", "flower"], []),
        ("LocalExecutor", ["api-server", "triggerer"], ["api-server"]),
        ("CeleryExecutor,LocalExecutor", ["scheduler", "api-server"], []),
    ],
)
def test_the_api_server_goes_first_but_for_tasks_of_the_scheduler(
    executor: str, stale: list[str], first: list[str]
) -> None:
    names = [f"airflow-{name}.service" for name in stale]
    known = {"airflow_executor": executor, "__airflow_state": {"attention": names, "stopped": []}, "groups": {}}
    found = evaluate("{{ __airflow_restarting_first }}", ("cluster", "airflow"), known)
    assert found == [f"airflow-{name}.service" for name in first]
