"""SQLite instead of PostgreSQL: what follows from it, what it forbids, and how its revisions are read."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.capacity import table
from ansible_collections.dataops.airflow.plugins.module_utils.inventory_rules import check_inventory
from ansible_collections.dataops.airflow.plugins.modules.schema import revisions
from expressions import evaluate
from test_capacity import facts, plan
from test_inventory_rules import CATALOGUE, SECRET_VALUES, Inventory

CONTROL = ("schedulers", "webservers", "dag_processors", "triggerers")
WRITER = "it takes one writer at a time"
ONE: dict[str, list[str]] = {group: ["box"] for group in CONTROL}


def derived(name: str) -> Any:
    """Value of the role cluster on a host of inventories/quickstart."""
    variables = {
        "groups": {"all": ["box"], **ONE},
        "hostvars": {"box": {}},
        "airflow_executor": "",
        "cluster_firewall": False,
        "cluster_webserver_host": "",
    }
    host = {"inventory_hostname": "box", "cluster_address": "box", "group_names": list(CONTROL)}
    return evaluate(f"{{{{ {name} }}}}", ("cluster",), {**variables, **host, "cluster_database_backend": "sqlite"})


def found(groups: dict[str, list[str]], **variables: Any) -> list[str]:
    """What is wrong with an inventory that wants SQLite."""
    hosts = {host for members in groups.values() for host in members}
    values = {
        host: {"ansible_host": f"10.0.0.{number}", **SECRET_VALUES, "cluster_database_backend": "sqlite", **variables}
        for number, host in enumerate(sorted(hosts), 1)
    }
    problems = check_inventory(Inventory(groups, values), CATALOGUE)
    assert {problem.subject.split()[0] for problem in problems} <= {"cluster_database_backend"}, problems
    return [problem.found for problem in problems]


def test_what_follows() -> None:
    assert derived("cluster_database_url") == "sqlite:////var/lib/airflow/airflow.db"
    assert derived("cluster_parallelism") == 1
    assert derived("__cluster_names_here") == ["box", "box"]
    assert derived("cluster_database_left_out") == ""


def test_one_host_without_a_server() -> None:
    assert found(ONE) == []


@pytest.mark.parametrize(
    ("groups", "variables", "word"),
    [
        ({**ONE, "postgresql": ["box"]}, {}, "box in the group postgresql"),
        (ONE, {"cluster_database_host": "db.example.org"}, "cluster_database_host is set"),
        ({**ONE, "triggerers": ["other"]}, {}, "Airflow on 2 hosts: box, other"),
        *(
            (
                ONE,
                {"airflow_config": {"core": {"parallelism": value}}},
                f"parallelism {shown} in airflow_config: {WRITER}",
            )
            for value, shown in ((8, "8"), ("2", '"2"'), (None, "null"))
        ),
    ],
)
def test_what_it_forbids(groups: dict[str, list[str]], variables: dict[str, Any], word: str) -> None:
    (text,) = found(groups, **variables)
    assert text == f'"sqlite" with {word}'


def test_one_task_at_a_time_may_be_said_aloud() -> None:
    assert found(ONE, airflow_config={"core": {"parallelism": 1}}) == []


def test_celery_is_refused() -> None:
    texts = found({**ONE, "redis": ["box"], "workers": ["box"]})
    assert texts == ['"sqlite" with CeleryExecutor, whose workers would need the database at once']


def test_the_plan_speaks_of_no_connections() -> None:
    assert "PostgreSQL" not in table(plan(facts(connections={})), None)


def test_revisions_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    path = tmp_path / "airflow.db"
    assert revisions(tmp_path, f"sqlite:///{path}") == {}
    assert not path.exists(), "asking makes no file"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("CREATE TABLE dag (id TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('5f2621c13b39')")
    assert revisions(tmp_path, f"sqlite:///{path}") == {"alembic_version": ["5f2621c13b39"]}
