"""bench: the script that the collection is compared with, which no scenario runs, keeps up with what it shares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.contract.collection import CHECKOUT, ROLES


def test_the_script_gives_the_canary_what_it_reads() -> None:
    told = re.search(r"echo '(\{.*\})' > \S+/canary\.json", (CHECKOUT / "bench/floor.sh").read_text())
    assert told, "floor.sh writes no canary.json"
    read = yaml.safe_load((CHECKOUT / "roles/airflow/vars/main.yml").read_text())["__airflow_canary_settings"]
    assert json.loads(told[1]).keys() == read.keys()


def named(tasks: Any) -> Iterator[str]:
    """Names of tasks, those in blocks too."""
    for task in tasks or []:
        yield task.get("name", "")
        yield from named(task.get("block"))


def test_what_is_said_of_slow_tasks_is_said_of_tasks_that_there_are() -> None:
    files = ((role, path) for role in ROLES for path in (CHECKOUT / "roles" / role / "tasks").glob("*.yml"))
    tasks = {f"{role} : {name}" for role, path in files for name in named(yaml.safe_load(path.read_text()))}
    assert json.loads((CHECKOUT / "bench/slow_tasks.json").read_text()).keys() - tasks == set()
