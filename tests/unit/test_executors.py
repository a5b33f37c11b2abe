"""Executors beside each other: what the role cluster derives from them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from expressions import CHECKOUT, evaluate

CONTROL = ("schedulers", "webservers", "dag_processors", "triggerers")
PORT = 8793


def derived(name: str, executor: str, workers: int = 2, schedulers: int = 1, host: str = "control1") -> Any:
    """Value on a host of a cluster whose workers have 16 slots each."""
    names = [f"worker{number}" for number in range(1, workers + 1)]
    control = [f"control{number}" for number in range(1, schedulers + 1)]
    groups = {**dict.fromkeys(CONTROL, control), "postgresql": ["control1"], "redis": ["control1"], "workers": names}
    variables = {
        "groups": {"all": [*control, *names], **groups},
        "hostvars": {member: {} for member in [*control, *names]},
        "group_names": [group for group, members in groups.items() if host in members],
        "airflow_executor": executor,
        "cluster_database_backend": "postgresql",
        "cluster_database_port": 5432,
        "cluster_redis_port": 6379,
        "cluster_balancer_port": 8081,
        "cluster_webserver_port": 8080,
        "cluster_flower_port": 5555,
        "cluster_scheduler_health_port": 8974,
        "cluster_triggerer_log_port": 8794,
        "cluster_worker_log_port": PORT,
        "cluster_webserver_workers": 0,
    }
    return evaluate(f"{{{{ {name} }}}}", ("cluster",), variables)


@pytest.mark.parametrize(
    ("executor", "workers", "celery", "local", "kubernetes"),
    [
        ("", 2, True, False, False),
        ("", 0, False, True, False),
        ("CeleryExecutor,LocalExecutor", 2, True, True, False),
        ("quick:LocalExecutor, big:CeleryExecutor", 2, True, True, False),
        ("LocalExecutor,KubernetesExecutor", 0, False, True, True),
        ("KubernetesExecutor", 0, False, False, True),
    ],
)
def test_each_is_known_by_its_name(executor: str, workers: int, celery: bool, local: bool, kubernetes: bool) -> None:
    names = ("cluster_celery", "__cluster_local", "__cluster_kubernetes")
    assert [derived(name, executor, workers) for name in names] == [celery, local, kubernetes]
    assert bool(derived("cluster_workers", executor, workers)) is celery


@pytest.mark.parametrize(
    ("executor", "workers", "schedulers", "parallelism", "pool", "local"),
    [
        ("CeleryExecutor", 2, 1, 32 + 16, 32 + 16, 0),
        ("CeleryExecutor", 3, 2, 24 + 8, 48 + 16, 0),
        ("CeleryExecutor,LocalExecutor", 2, 1, 32 + 16 + 32, 32 + 16, 32),
        ("CeleryExecutor,LocalExecutor", 3, 2, 24 + 8 + 32, 48 + 16, 32),
        ("LocalExecutor,CeleryExecutor", 2, 1, 32 + 16 + 32, 128, 32),
        ("CeleryExecutor,KubernetesExecutor", 2, 1, 32 + 16 + 32, 32 + 16, 0),
        ("LocalExecutor,KubernetesExecutor", 0, 1, 32, 128, 32),
        ("KubernetesExecutor", 0, 2, 32, 128, 0),
    ],
)
def test_capacity(executor: str, workers: int, schedulers: int, parallelism: int, pool: int, local: int) -> None:
    """Slots, 16 that are queued, and Airflow's 32 for what has none; the pool is that of the first executor."""
    names = ("cluster_parallelism", "__cluster_default_pool", "__cluster_local_slots")
    assert [int(derived(name, executor, workers, schedulers)) for name in names] == [parallelism, pool, local]


@pytest.mark.parametrize(
    ("executor", "workers", "schedulers", "processes"),
    [
        ("CeleryExecutor", 1, 1, 1),
        ("CeleryExecutor", 4, 1, 1),
        ("CeleryExecutor", 5, 1, 2),
        ("CeleryExecutor", 8, 2, 1),
        ("CeleryExecutor", 9, 2, 2),
        ("CeleryExecutor,LocalExecutor", 3, 1, 2),
        ("LocalExecutor", 0, 2, 1),
        ("KubernetesExecutor", 0, 1, 1),
    ],
)
def test_api_processes_follow_the_tasks(executor: str, workers: int, schedulers: int, processes: int) -> None:
    """One for each 64 tasks, divided by the API servers: each control host has one."""
    assert derived("__cluster_api_workers", executor, workers, schedulers) == processes


def test_from_how_many_slots_on_a_dag_follows_them() -> None:
    """The documents say when one more worker restarts the DAG processor, too."""

    def tasks_of_a_run(slots: int) -> int:
        told = {
            "cluster_worker_slots": slots,
            "__cluster_members": {"schedulers": ["control1"]},
            "cluster_celery": True,
        }
        config = {"__cluster_executors": ["CeleryExecutor"], "__cluster_told_parallelism": ""}
        return int(evaluate("{{ __airflow_run_tasks }}", ("cluster", "airflow"), {**told, **config}))

    first = next(slots for slots in range(1, 100) if tasks_of_a_run(slots) > tasks_of_a_run(1))
    for page in ("README.md", "docs/workers.md", "docs/concurrency.md"):
        found = set(re.findall("with more than ([0-9]+) slots", (CHECKOUT / page).read_text()))
        assert found == {str(first - 1)}, page


@pytest.mark.parametrize(
    ("executor", "workers", "host", "serves"),
    [
        ("CeleryExecutor", 2, "control1", False),
        ("CeleryExecutor,LocalExecutor", 2, "control1", True),
        ("CeleryExecutor,LocalExecutor", 2, "worker1", True),
        ("LocalExecutor", 0, "control1", True),
        ("KubernetesExecutor", 0, "control1", False),
    ],
)
def test_who_serves_logs(executor: str, workers: int, host: str, serves: bool) -> None:
    listeners = derived("__cluster_ports_here", executor, workers, host=host)
    assert [listener["port"] for listener in listeners].count(PORT) == int(serves)
