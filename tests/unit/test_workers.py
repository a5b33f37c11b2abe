"""Every worker of the cluster, and what follows from the list: the real expressions of the role cluster."""

from __future__ import annotations

from typing import Any

import pytest
from expressions import evaluate

ADDRESSES = {"ctl": "10.0.0.1", "w1": "10.0.0.2", "w2": "10.0.0.3"}
GROUPS = {
    "all": list(ADDRESSES),
    **{group: ["ctl"] for group in ("schedulers", "webservers", "dag_processors")},
    "workers": ["w1", "w2"],
}


def derived(name: str, leaving: str = "", **hosts: dict[str, Any]) -> Any:
    """A derived value of a cluster of two workers on which some variables are set.

    :param leaving: host that worker_remove.yml takes out.
    """
    hostvars = {host: {"cluster_address": address, **hosts.get(host, {})} for host, address in ADDRESSES.items()}
    variables = {
        "groups": GROUPS,
        "hostvars": hostvars,
        "airflow_executor": "",
        "cluster_webserver_workers": 0,
        "__cluster_leaving": {"worker": leaving},
    }
    return evaluate(f"{{{{ {name} }}}}", ("cluster",), variables)


SEVERAL = {
    "airflow_worker_queues": ["default", "small"],
    "airflow_worker_concurrency": "4",
    "airflow_worker_memory_max": "80%",
    "airflow_worker_instances": {
        "gpu": {"queues": ["gpu"], "concurrency": 1, "memory_max": "8G", "cpu_quota": "150%"},
        "grows": {"autoscale": "8,2"},
    },
}


def test_every_worker_is_in_the_list() -> None:
    plain, own, gpu, grows = derived("__cluster_worker_settings", w2=SEVERAL)
    assert plain == {
        "name": "w1",
        "host": "w1",
        "instance": "",
        "unit": "airflow-worker.service",
        "queues": ["default", "w1"],
        "concurrency": 16,
        "autoscale": "",
        "memory_max": "",
        "cpu_quota": "",
    }
    assert (own["name"], own["queues"], own["concurrency"]) == ("w2", ["default", "small", "w2"], 4)
    assert gpu == {
        "name": "w2-gpu",
        "host": "w2",
        "instance": "gpu",
        "unit": "airflow-worker@gpu.service",
        "queues": ["gpu", "w2-gpu"],
        "concurrency": 1,
        "autoscale": "",
        "memory_max": "8G",
        "cpu_quota": "150%",
    }
    # What an instance leaves out is Airflow's, not the host's.
    assert (grows["queues"], grows["concurrency"], grows["memory_max"]) == (["default", "w2-grows"], 8, "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cluster_worker_slots", 16 + 4 + 1 + 8),
        ("cluster_parallelism", 16 + 4 + 1 + 8 + 16),
        ("cluster_workers", ["w1", "w2"]),
        (
            "cluster_worker_addresses",
            {"w1": "10.0.0.2", "w2": "10.0.0.3", "w2-gpu": "10.0.0.3", "w2-grows": "10.0.0.3"},
        ),
        # Pools of 15 for the scheduler, the DAG processor and, twice, the API server; 29 slots, four for each worker.
        ("__cluster_connection_budget", 15 * 4 + 29 + 4 * 4 + 5 + 15),
    ],
)
def test_what_follows_counts_every_worker(name: str, expected: Any) -> None:
    assert derived(name, w2=SEVERAL) == expected


def test_the_connections_follow_the_pools_that_the_site_says() -> None:
    pools = {"airflow_config": {"database": {"sql_alchemy_pool_size": 40, "sql_alchemy_max_overflow": 0}}}
    assert derived("__cluster_connection_budget", w2=SEVERAL, ctl=pools) == 40 * 4 + 29 + 4 * 4 + 5 + 15
    unset = {"airflow_config": {"database": {"sql_alchemy_pool_size": None, "sql_alchemy_max_overflow": None}}}
    assert derived("__cluster_connection_budget", w2=SEVERAL, ctl=unset) == 15 * 4 + 29 + 4 * 4 + 5 + 15


@pytest.mark.parametrize(("told", "expected"), [(3, 3), ("3", "3"), (None, 32), ("", 29 + 16)])
def test_parallelism_is_what_the_site_says(told: Any, expected: Any) -> None:
    control = {"airflow_config": {"core": {"parallelism": told}}}
    assert derived("cluster_parallelism", w2=SEVERAL, ctl=control) == expected


@pytest.mark.parametrize(
    ("w1", "abandoned"),
    [
        ({}, ["gpu", "small"]),
        ({"airflow_worker_queues": ["small"]}, ["default", "gpu"]),
        ({"airflow_worker_instances": {"x": {"queues": ["gpu", "small", "w2-gpu"]}}}, []),
    ],
    ids=["nobody else", "one of them", "an instance elsewhere"],
)
def test_queues_that_nobody_would_serve(w1: dict[str, Any], abandoned: list[str]) -> None:
    assert sorted(derived("__cluster_abandoned_queues", leaving="w2", w1=w1, w2=SEVERAL)) == abandoned


def here(text: str, **variables: Any) -> Any:
    """A value of the role airflow on w2."""
    hostvars: dict[str, dict[str, Any]] = {host: {"cluster_address": address} for host, address in ADDRESSES.items()}
    hostvars["w2"].update(SEVERAL)
    known = {
        "groups": GROUPS,
        "hostvars": hostvars,
        "inventory_hostname": "w2",
        "group_names": ["workers"],
        "airflow_executor": "",
        "airflow_worker_cpu_quota": "",
        "airflow_worker_stop_timeout": 3600,
        **SEVERAL,
        **variables,
    }
    return evaluate(text, ("cluster", "airflow"), known)


def test_a_host_knows_its_workers() -> None:
    assert here("{{ __airflow_components_here }}") == ["worker", "worker@gpu", "worker@grows"]
    assert here("{{ __airflow_worker_check_units }}") == [
        f"airflow-worker-check{at}.{kind}" for at in ("", "@gpu", "@grows") for kind in ("service", "timer")
    ]
    assert here("{{ __airflow_health_checks | map(attribute='worker') }}") == [
        f"celery@{name}" for name in ("w2", "w2-gpu", "w2-grows")
    ]
    assert here("{{ __airflow_unit_names }}")[-2:] == ["airflow-worker.service", "airflow-worker@*.service"]


def test_only_running_workers_are_drained() -> None:
    states = {
        "airflow-worker.service": "active",
        "airflow-worker@a.service": "failed",
        "airflow-worker@b_1.service": "active",
    }
    results = [{"item": unit, "stdout": state} for unit, state in states.items()]
    assert here("{{ __airflow_draining }}", __airflow_worker_states={"results": results}) == [
        {"celery": "celery@w2", "record": "/run/airflow-worker/started-with"},
        {"celery": "celery@w2-b_1", "record": "/run/airflow-worker@b_1/started-with"},
    ]


@pytest.mark.parametrize(
    ("unit", "left"),
    [
        ("airflow-scheduler.service", []),
        ("airflow-worker@gpu.service", ["check@gpu.service", "check@gpu.timer"]),
        ("airflow-worker.service", ["worker_check.py", "worker_check.sh", "check.service", "check.timer"]),
    ],
)
def test_the_checks_leave_with_their_worker(unit: str, left: list[str]) -> None:
    found = here("{{ __airflow_worker_check_left }}", __airflow_state={"unexpected": [unit]})
    assert [
        path.removeprefix("/opt/airflow/").removeprefix("/etc/systemd/system/airflow-worker-") for path in found
    ] == left


def probed(*units: str) -> dict[str, Any]:
    """What a host's probe found of workers."""
    return {"__cluster_probe": {"probe": {"workers": [f"airflow-{unit}.service" for unit in units]}}}


@pytest.mark.parametrize(
    ("w1", "w2", "missing"),
    [
        (probed("worker"), probed("worker", "worker@gpu", "worker@grows"), []),
        (
            probed(),
            probed("worker", "worker@grows"),
            ["airflow-worker.service on w1", "airflow-worker@gpu.service on w2"],
        ),
        ({"__cluster_probe": {"unreachable": True}}, {}, []),
    ],
    ids=["all there", "two missing", "not looked at"],
)
def test_workers_that_are_not_there(w1: dict[str, Any], w2: dict[str, Any], missing: list[str]) -> None:
    assert derived("__cluster_workers_missing", w1=w1, w2=SEVERAL | w2) == missing
    left = [name for name in missing if not name.endswith("w1")]
    assert derived("__cluster_workers_missing", leaving="w1", w1=w1, w2=SEVERAL | w2) == left


@pytest.mark.parametrize(
    ("host", "there", "firewall", "stops"),
    [
        ("ctl", ["worker"], False, True),
        ("ctl", [], False, False),
        ("ctl", [], True, True),
        ("w1", ["worker"], True, False),
    ],
    ids=["others work on", "nobody else is left", "its broker would be closed", "it stays"],
)
def test_a_worker_that_left_stops_first(host: str, there: list[str], firewall: bool, stops: bool) -> None:
    hosts = {"ctl": probed("worker", "worker@a"), "w1": probed(*there), "w2": probed()}
    known = {
        "inventory_hostname": host,
        "groups": GROUPS,
        "hostvars": hosts,
        "airflow_executor": "",
        "cluster_firewall": firewall,
        "cluster_host": hosts[host]["__cluster_probe"]["probe"],
    }
    units = ["airflow-worker.service", "airflow-worker@a.service"]
    assert evaluate("{{ __cluster_workers_left }}", ("cluster",), known) == (units if stops else [])


def test_a_run_that_ends_early_says_who_was_stopped() -> None:
    stopped = {"__airflow_workers_stopped": {"changed": True, "results": []}}
    known = {"ansible_play_hosts_all": ["ctl", "w1"], "hostvars": {"ctl": {}, "w1": stopped}}
    said = evaluate("{{ __cluster_but_stopped }}", ("cluster",), known)
    assert said == "; but the worker of w1, which the inventory no longer has, was stopped"
    known["hostvars"] = {"ctl": {}, "w1": {"__airflow_workers_stopped": {"changed": False}}}
    assert evaluate("{{ __cluster_but_stopped }}", ("cluster",), known) == ""


@pytest.mark.parametrize(
    ("executor", "parallelism", "slots", "overlaps"),
    [
        ("CeleryExecutor", 2, 1, False),
        ("CeleryExecutor", 1, 8, False),
        ("CeleryExecutor", 4, 2, True),
        ("LocalExecutor", 32, 0, True),
        ("LocalExecutor", 1, 0, False),
    ],
)
def test_two_tasks_of_the_canary_overlap_where_two_can_run(
    executor: str, parallelism: int, slots: int, overlaps: bool
) -> None:
    known = {
        "airflow_executor": executor,
        "groups": GROUPS,
        "cluster_parallelism": parallelism,
        "cluster_worker_slots": slots,
    }
    assert evaluate("{{ __airflow_canary_overlaps }}", ("cluster", "airflow"), known) is overlaps
