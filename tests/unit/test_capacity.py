"""How many tasks a cluster runs at once, what bounds them, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.capacity import (
    COMPONENT_MEMORY,
    SLOT_MEMORY,
    crowded,
    growth,
    memory_limit,
    memory_needed,
    plan,
    queues,
    table,
)
from expressions import CHECKOUT

WORKERS = [
    {"name": "worker1", "host": "worker1", "concurrency": 4, "queues": ["default", "worker1"]},
    {"name": "worker2", "host": "worker2", "concurrency": 2, "queues": ["default", "large", "worker2"]},
]


def facts(**changed: Any) -> dict[str, Any]:
    """What the playbook tells of two workers, with some of it changed."""
    config = {
        "parallelism": 6,
        "max_active_tasks_per_dag": 16,
        "max_active_runs_per_dag": 16,
        "default_pool_task_slot_count": 128,
    }
    hosts = [
        {"name": "control1", "components": ["scheduler", "api-server"], "memory": 4096},
        {"name": "worker1", "components": ["worker"], "memory": 400},
        {"name": "worker2", "components": ["worker"], "memory": None},
    ]
    found = {
        "executor": "CeleryExecutor",
        "celery": True,
        "local": 0,
        "schedulers": 1,
        "config": config | changed.pop("config", {}),
        "workers": WORKERS,
        "hosts": hosts,
        "api_workers": 1,
        "task_memory": 100,
        "connections": {"needed": 95, "available": 100},
    }
    return found | changed


def test_a_slot_counts_in_each_queue_of_its_worker() -> None:
    assert queues(WORKERS) == {
        "default": {"workers": ["worker1", "worker2"], "slots": 6},
        "worker1": {"workers": ["worker1"], "slots": 4},
        "large": {"workers": ["worker2"], "slots": 2},
        "worker2": {"workers": ["worker2"], "slots": 2},
    }


@pytest.mark.parametrize(
    ("changed", "cluster", "tasks", "dag"),
    [
        ({}, "worker slots", 6, 6),
        ({"config": {"parallelism": 2}}, "[core] parallelism 2", 2, 2),
        ({"config": {"parallelism": 2}, "schedulers": 2}, "[core] parallelism 2 x 2 schedulers", 4, 4),
        ({"config": {"default_pool_task_slot_count": 1}}, "slots of default_pool", 1, 1),
        ({"config": {"max_active_tasks_per_dag": 3}}, "worker slots", 6, 3),
        (
            {"celery": False, "local": 32, "workers": [], "config": {"parallelism": 32}},
            "[core] parallelism 32",
            32,
            16,
        ),
    ],
)
def test_the_lowest_limit_is_named(changed: dict[str, Any], cluster: str, tasks: int, dag: int) -> None:
    found = plan(facts(**changed))
    assert (found["cluster"]["name"], found["cluster"]["tasks"]) == (cluster, tasks)
    assert found["dag"]["tasks"] == dag


def test_the_bounds_are_named_where_a_worker_has_some() -> None:
    grown = [*WORKERS, {"name": "worker3", "host": "worker3", "concurrency": 8, "queues": [], "autoscale": "8,2"}]
    ways = [plan(facts(workers=workers))["limits"][0]["raise_with"] for workers in (WORKERS, grown)]
    assert ["airflow_worker_autoscale" in way for way in ways] == [False, True]


def test_memory_is_that_of_components_and_slots() -> None:
    assert memory_needed(["worker"], 4, 1, 100) == COMPONENT_MEMORY["worker"] + 4 * (SLOT_MEMORY + 100)
    two = memory_needed(["scheduler", "api-server"], 0, 2, 100)
    assert two == COMPONENT_MEMORY["scheduler"] + 2 * COMPONENT_MEMORY["api-server"]


def test_a_host_that_is_too_small_is_named_and_an_unknown_one_is_not() -> None:
    found = plan(facts())["memory"]
    assert {host: memory["fits"] for host, memory in found.items()} == {
        "control1": True,
        "worker1": False,
        "worker2": True,
    }
    text = table(plan(facts()), None)
    assert "TOO LITTLE" in next(line for line in text.splitlines() if line.startswith("memory of worker1"))
    assert text.count("TOO LITTLE") == 1
    assert "not known" in next(line for line in text.splitlines() if line.startswith("memory of worker2"))


@pytest.mark.parametrize(
    ("memory_max", "host", "limit"),
    [
        ("", 4096, 4096),
        ("", None, None),
        ("2G", 4096, 2048),
        ("2G", None, 2048),
        ("1.5G", 4096, 1536),
        ("8G", 4096, 4096),
        ("524288K", 4096, 512),
        ("80%", 4096, 3276),
        ("80%", None, None),
    ],
)
def test_a_limit_is_a_size_or_a_part_of_the_host(memory_max: str, host: int | None, limit: int | None) -> None:
    assert memory_limit(memory_max, host) == limit


def test_a_limit_that_is_too_small_is_named() -> None:
    limits = ("1G", "256M")
    workers = [{**worker, "memory_max": limit} for worker, limit in zip(WORKERS, limits, strict=True)]
    found = plan(facts(workers=workers))
    assert [memory["fits"] for memory in found["memory_max"].values()] == [False, False]
    lines = table(found, None).splitlines()
    assert [line.split()[-4:-2] for line in lines if line.startswith("MemoryMax")] == [["of", "400:"], ["of", "256:"]]
    assert plan(facts())["memory_max"] == {}


def test_a_second_worker_on_a_host_counts_there() -> None:
    second = {"name": "worker1-gpu", "host": "worker1", "concurrency": 1, "queues": ["gpu"], "memory_max": "50%"}
    before, after = plan(facts()), plan(facts(workers=[*WORKERS, second]))
    more = COMPONENT_MEMORY["worker"] + SLOT_MEMORY + 100
    assert after["memory"]["worker1"]["needed"] - before["memory"]["worker1"]["needed"] == more
    assert after["memory_max"] == {"worker1-gpu": {"needed": more, "available": 200, "fits": False}}
    assert after["cluster"]["tasks"] == 6 and after["limits"][0]["tasks"] == 7
    assert after["queues"]["gpu"] == {"workers": ["worker1-gpu"], "slots": 1}


def test_tasks_of_local_executor_count_on_the_scheduler() -> None:
    celery, local = plan(facts()), plan(facts(celery=False, local=6, workers=[]))
    more = local["memory"]["control1"]["needed"] - celery["memory"]["control1"]["needed"]
    assert more == 6 * (SLOT_MEMORY + 100)


def test_beside_celery_it_has_its_own() -> None:
    celery, both = plan(facts()), plan(facts(local=2))
    assert both["memory"]["control1"]["needed"] - celery["memory"]["control1"]["needed"] == 2 * (SLOT_MEMORY + 100)
    assert both["memory"]["worker1"] == celery["memory"]["worker1"]
    pods = plan(facts(celery=False, workers=[], config={"parallelism": 32}))
    assert pods["memory"]["control1"] == celery["memory"]["control1"], "KubernetesExecutor takes no memory of hosts"


def test_beside_others_worker_slots_bound_celery_only() -> None:
    both = plan(facts(executor="CeleryExecutor,LocalExecutor", local=32, config={"parallelism": 38}))
    assert both["limits"][0]["name"] == "worker slots"
    assert both["cluster"] == {**both["cluster"], "name": "[core] parallelism 38", "tasks": 38}


def test_too_few_connections_are_named_and_those_of_another_server_are_not_known() -> None:
    few = table(plan(facts(connections={"needed": 95, "available": 50})), None)
    assert "95 of 50: TOO FEW" in few
    other = plan(facts(connections={"needed": 95, "available": None}))
    assert other["connections"] == {"needed": 95, "available": None}
    assert "95, of what is not known" in table(other, None)


def test_one_more_worker_is_told_with_what_it_restarts() -> None:
    now = plan(facts())
    third = [*WORKERS, {"name": "one more", "host": "one more", "concurrency": 2, "queues": ["default"]}]
    then = plan(facts(workers=third, config={"parallelism": 8}, connections={"needed": 101, "available": 200}))
    more = growth(now, then)
    assert more == {
        "tasks": [6, 8],
        "parallelism": [6, 8],
        "connections": [95, 101],
        "queues": {"default": [6, 8]},
        "memory": COMPONENT_MEMORY["worker"] + 2 * (SLOT_MEMORY + 100),
        "restarts": ["the scheduler", "PostgreSQL"],
    }
    last = table(now, more).splitlines()[-1]
    costs = ("95 -> 101", "452 MB of its host", "the scheduler and PostgreSQL")
    for word in ("tasks 6 -> 8", "parallelism 6 -> 8", "queue default 6 -> 8", *costs):
        assert word in last


def test_a_limit_that_grows_restarts_who_writes_it_into_the_dags() -> None:
    large = plan(facts(config={"max_active_tasks_per_dag": 18, "max_active_runs_per_dag": 18}))
    assert growth(plan(facts()), large)["restarts"] == ["the DAG processor"]


def test_a_further_process_restarts_the_api_servers() -> None:
    assert growth(plan(facts()), plan(facts(api_workers=2)))["restarts"] == ["the API servers"]


def test_a_worker_that_changes_nothing_restarts_nothing() -> None:
    now = plan(facts(config={"parallelism": 2}))
    more = growth(now, plan(facts(config={"parallelism": 2})))
    assert more["restarts"] == []
    assert "no change; restarts nothing" in table(now, more).splitlines()[-1]


def test_the_database_and_the_broker_need_memory_too() -> None:
    """PostgreSQL with 95 connections, Redis, and a worker of 4 slots, with a scheduler that has 32 of its own."""
    hosts = [
        {"name": "db1", "components": ["postgresql", "redis"], "memory": 2048},
        {"name": "worker1", "components": ["scheduler", "worker"], "memory": 6000},
    ]
    memory = plan(facts(hosts=hosts, local=32))["memory"]
    assert memory["db1"]["needed"] == 100 + 95 * 8 + 10
    assert memory["worker1"]["needed"] == 239 + 142 + 36 * 155
    assert plan(facts(hosts=hosts, connections={}))["memory"]["db1"]["needed"] == 110


@pytest.mark.parametrize(
    ("components", "local", "memory", "said"),
    [
        (["scheduler"], 32, 5199, []),
        (["scheduler"], 32, None, []),
        (
            ["scheduler"],
            32,
            4096,
            ["box has 4096 MB", "(scheduler) needs 5199 MB", "24 slots fit; lower airflow_config"],
        ),
        (["scheduler"], 32, 128, ["give it more memory"]),
        (
            ["postgresql", "scheduler"],
            0,
            1000,
            ["(postgresql, scheduler) needs 1099 MB: give it more memory"],
        ),
        (
            ["postgresql", "worker"],
            0,
            1500,
            ["(postgresql, worker) needs 1622", "3 slots fit; lower airflow_worker_conc"],
        ),
        (["worker"], 0, 128, []),
    ],
)
def test_a_host_that_may_get_crowded_is_told_of(
    components: list[str], local: int, memory: int | None, said: list[str]
) -> None:
    hosts = [{"name": "box", "components": components, "memory": memory}]
    workers = [{"name": "box", "host": "box", "concurrency": 4, "queues": []}] if "worker" in components else []
    found = crowded(facts(hosts=hosts, workers=workers, local=local))
    assert len(found) == bool(said)
    assert all(part in found[0] for part in said), found


def test_the_documents_have_these_numbers() -> None:
    text = " ".join((CHECKOUT / "roles/airflow/meta/argument_specs.yml").read_text().split())
    assert f"{COMPONENT_MEMORY['worker']} MB, and {SLOT_MEMORY} MB" in text
