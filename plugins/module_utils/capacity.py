# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Works out how many tasks a cluster runs at once, what bounds them, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

COMPONENT_MEMORY = {
    "api-server": 281,
    "scheduler": 239,
    "dag-processor": 171,
    "triggerer": 192,
    "flower": 140,
    "worker": 142,
    "postgresql": 100,
    "redis": 10,
}
"""MB of an idle component, a worker without its slots; measured with Airflow 3.3.2 as PSS: shared pages count once."""

CONNECTION_MEMORY = 8
"""MB of a connection in PostgreSQL 15, measured likewise on an idle cluster. Full shared_buffers come on top."""

SLOT_MEMORY = 55
"""MB of a slot, measured likewise: the process that supervises its tasks. What a task takes comes on top."""


@dataclass(frozen=True)
class Limit:
    """One bound on the tasks that run at once.

    :ivar name: what bounds them.
    :ivar tasks: how many tasks it lets run at once.
    :ivar raise_with: what to change for more.
    """

    name: str
    tasks: int
    raise_with: str


def tightest(limits: Sequence[Limit]) -> Limit:
    """The lowest limit; of equal ones the first."""
    return min(limits, key=lambda limit: limit.tasks)


def queues(workers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Who serves each queue, and with how many slots.

    :param workers: ``name``, ``concurrency`` and ``queues`` of each.
    :returns: ``{queue: {"workers": [names], "slots": number}}``. A slot counts in each queue that its worker serves.
    """
    found: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for queue in worker["queues"]:
            entry = found.setdefault(queue, {"workers": [], "slots": 0})
            entry["workers"].append(worker["name"])
            entry["slots"] += int(worker["concurrency"])
    return found


def memory_limit(memory_max: str, host: int | None) -> int | None:
    """MB that a worker may use.

    :param memory_max: systemd's ``MemoryMax``: a size with K, M, G or T, a percentage of the host's memory, or nothing.
    :param host: MB that its host has; None where that is not known.
    :returns: the limit, not more than the host has; None where neither is known.
    """
    given = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT%])", memory_max)
    if not given:
        return host
    number, unit = float(given[1]), given[2]
    if unit == "%":
        return None if host is None else int(host * number / 100)
    limit = int(number * 1024.0 ** ("KMGT".index(unit) - 1))
    return limit if host is None else min(limit, host)


def memory_needed(
    components: Sequence[str], concurrency: int, api_workers: int, task: int, connections: int = 0
) -> int:
    """MB that the components of one host need when each slot on it runs a task.

    :param components: names, such as ``scheduler``; ``worker`` once for each worker.
    :param concurrency: slots on this host, whether of workers or of a scheduler with LocalExecutor.
    :param api_workers: processes of the API server.
    :param task: MB of one running task.
    :param connections: to PostgreSQL, from all hosts.
    """
    several = {"api-server": api_workers}
    idle = sum(COMPONENT_MEMORY[name] * several.get(name, 1) for name in components)
    clients = connections * CONNECTION_MEMORY if "postgresql" in components else 0
    return idle + clients + concurrency * (SLOT_MEMORY + task)


@dataclass(frozen=True)
class Load:
    """What runs on one host.

    :ivar components: see :func:`memory_needed`.
    :ivar slots: tasks that its workers and its scheduler run at once.
    :ivar needed: MB when each of them does.
    :ivar available: MB that it has; None where that is not known.
    """

    components: tuple[str, ...]
    slots: int
    needed: int
    available: int | None

    @property
    def fits(self) -> bool:
        """Whether it has as much as it needs, or that is not known."""
        return self.available is None or self.needed <= self.available


def loads(facts: Mapping[str, Any]) -> dict[str, Load]:
    """What runs on each host, and how much memory that needs.

    :param facts: ``hosts``, ``workers``, ``local``, ``api_workers``, ``task_memory`` and ``connections`` of
        :func:`plan`.
    """
    connections = int(facts["connections"].get("needed", 0))
    found = {}
    for host in facts["hosts"]:
        own = [int(worker["concurrency"]) for worker in facts["workers"] if worker["host"] == host["name"]]
        components = (*(name for name in host["components"] if name != "worker"), *["worker"] * len(own))
        slots = sum(own) + (facts["local"] if "scheduler" in components else 0)
        needed = memory_needed(components, slots, facts["api_workers"], facts["task_memory"], connections)
        found[host["name"]] = Load(components, slots, needed, host["memory"])
    return found


def crowded(facts: Mapping[str, Any]) -> list[str]:
    """Tell of hosts that have less memory than all that runs there needs at the most.

    No refusal: few sites ever fill every slot, and a small host is where one begins. A host of workers alone is left
    out: it is refused.

    :param facts: see :func:`loads`.
    :returns: a sentence for each such host.
    """
    said = []
    for name, load in loads(facts).items():
        if load.fits or load.available is None or set(load.components) == {"worker"}:
            continue
        task = facts["task_memory"]
        fit = (load.available - load.needed) // (SLOT_MEMORY + task) + load.slots
        runs = ", ".join(dict.fromkeys(load.components))
        bounds = {"worker": "airflow_worker_concurrency", "scheduler": "airflow_config.core.parallelism"}
        fewer = [name for component, name in bounds.items() if component in load.components]
        when = (
            f" when each of its {load.slots} slots runs a task of {task} MB (airflow_task_memory)" if load.slots else ""
        )
        said.append(
            f"{name} has {load.available} MB. What runs there ({runs}) needs {load.needed} MB{when}: "
            + (f"{fit} slots fit; lower {' or '.join(fewer)}." if load.slots and fit > 0 else "give it more memory.")
        )
    return said


def plan(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What an inventory gives.

    :param facts: see the options of the module ``concurrency_plan``.
    :returns: see its return value ``plan``.
    """
    config, workers = facts["config"], facts["workers"]
    schedulers, parallelism = facts["schedulers"], int(config["parallelism"])
    every = "" if schedulers == 1 else f" x {schedulers} schedulers"
    limits = [
        Limit(f"[core] parallelism {parallelism}{every}", parallelism * schedulers, "airflow_config.core.parallelism"),
        Limit(
            "slots of default_pool",
            int(config["default_pool_task_slot_count"]),
            "airflow_config.core.default_pool_task_slot_count",
        ),
    ]
    if facts["celery"]:
        slots = sum(int(worker["concurrency"]) for worker in workers)
        grows = any(worker.get("autoscale") for worker in workers)
        more = ", airflow_worker_autoscale or" if grows else ", or"
        limits.insert(0, Limit("worker slots", slots, f"one more worker{more} airflow_worker_concurrency"))
    # Beside other executors, they bound the tasks of Celery only.
    bounds = limits[1:] if facts["celery"] and "," in facts["executor"] else limits
    of_dag = Limit(
        "[core] max_active_tasks_per_dag",
        int(config["max_active_tasks_per_dag"]),
        "airflow_config.core.max_active_tasks_per_dag, or max_active_tasks of the DAG",
    )
    hosts = {
        name: {"needed": load.needed, "available": load.available, "fits": load.fits}
        for name, load in loads(facts).items()
    }
    of_host = {host["name"]: host["memory"] for host in facts["hosts"]}
    limited = {}
    for worker in workers:
        if worker.get("memory_max"):
            needed = memory_needed(["worker"], int(worker["concurrency"]), 0, facts["task_memory"])
            available = memory_limit(worker["memory_max"], of_host.get(worker["host"]))
            limited[worker["name"]] = {
                "needed": needed,
                "available": available,
                "fits": available is None or needed <= available,
            }
    return {
        "executor": facts["executor"],
        "queues": queues(workers),
        "limits": [asdict(limit) for limit in limits],
        "cluster": asdict(tightest(bounds)),
        "dag": asdict(tightest([*bounds, of_dag])),
        "max_active_tasks_per_dag": int(config["max_active_tasks_per_dag"]),
        "max_active_runs_per_dag": int(config["max_active_runs_per_dag"]),
        "parallelism": parallelism,
        "api_workers": facts["api_workers"],
        "task_memory": facts["task_memory"],
        "workers": [dict(worker) for worker in workers],
        "memory": hosts,
        "memory_max": limited,
        "connections": {name: None if value is None else int(value) for name, value in facts["connections"].items()},
    }


def growth(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """What one more worker changes.

    :param now: a plan.
    :param then: the plan with one more worker.
    :returns: ``tasks``, ``parallelism``, ``connections`` and, in ``queues``, the slots of each queue that more workers
        serve, as ``[before, after]``; ``memory``, the MB that the host of the worker needs; and ``restarts``.
    """
    known = {worker["name"] for worker in now["workers"]}
    served = {name: queue["slots"] for name, queue in now["queues"].items()}
    concurrency = [int(worker["concurrency"]) for worker in then["workers"] if worker["name"] not in known]
    restarts = ["the scheduler"] if now["parallelism"] != then["parallelism"] else []
    if any(now[name] != then[name] for name in ("max_active_tasks_per_dag", "max_active_runs_per_dag")):
        restarts.append("the DAG processor")
    if now["api_workers"] != then["api_workers"]:
        restarts.append("the API servers")
    if now["connections"]["available"] != then["connections"]["available"]:
        restarts.append("PostgreSQL")
    return {
        "tasks": [now["cluster"]["tasks"], then["cluster"]["tasks"]],
        "parallelism": [now["parallelism"], then["parallelism"]],
        "connections": [now["connections"]["needed"], then["connections"]["needed"]],
        "queues": {
            name: [served[name], queue["slots"]]
            for name, queue in then["queues"].items()
            if name in served and served[name] != queue["slots"]
        },
        "memory": memory_needed(["worker"] * len(concurrency), sum(concurrency), 0, then["task_memory"]),
        "restarts": restarts,
    }


def table(now: Mapping[str, Any], more: Mapping[str, Any] | None) -> str:
    """A plan as text.

    :param now: the plan.
    :param more: see :func:`growth`; None where a worker cannot be added.
    """
    rows: list[tuple[str, str]] = [("executor", now["executor"])]
    for name, queue in now["queues"].items():
        rows.append((f"queue {name}", f"{queue['slots']} slots on {', '.join(queue['workers'])}"))
    rows += [(limit["name"], f"{limit['tasks']} tasks at once") for limit in now["limits"]]
    for title, key in (("all DAGs together", "cluster"), ("one DAG run", "dag")):
        limit = now[key]
        rows.append((title, f"{limit['tasks']} tasks at once, by {limit['name']}; raise it with {limit['raise_with']}"))
    rows.append(("runs of one DAG", f"{now['max_active_runs_per_dag']} at once, by [core] max_active_runs_per_dag"))
    memories = [(f"memory of {host}", memory) for host, memory in now["memory"].items()]
    memories += [(f"MemoryMax of the worker {name}", memory) for name, memory in now["memory_max"].items()]
    for title, memory in memories:
        has = ", of what is not known" if memory["available"] is None else f" of {memory['available']}"
        rows.append((title, f"{memory['needed']} MB{has}{'' if memory['fits'] else ': TOO LITTLE'}"))
    if connections := now["connections"]:
        has = connections["available"]
        of = ", of what is not known" if has is None else f" of {has}"
        trouble = ": TOO FEW" if has is not None and has < connections["needed"] else ""
        rows.append(("connections to PostgreSQL", f"{connections['needed']}{of}{trouble}"))
    if more:
        steps = [
            f"{name} {before} -> {after}"
            for name in ("tasks", "parallelism", "connections")
            for before, after in [more[name]]
            if before != after
        ]
        steps += [f"queue {name} {before} -> {after}" for name, (before, after) in more["queues"].items()]
        steps += [f"{more['memory']} MB of its host"] if more["memory"] else []
        restarts = " and ".join(more["restarts"]) or "nothing"
        rows.append(("one more worker", f"{', '.join(steps) or 'no change'}; restarts {restarts}"))
    width = max(len(title) for title, _ in rows)
    return "\n".join(f"{title.ljust(width)}  {text}" for title, text in rows)
