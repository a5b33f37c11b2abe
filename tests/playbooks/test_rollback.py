"""When rollback.yml refuses: the real rule of the role cluster, on hosts that only say what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbook import run_play

HOSTS = ("control1", "worker1", "worker2")
GOOD = {"__airflow_previous": {"path": "/opt/airflow/releases/A", "told": "", "intact": True}}
PROVED = {"__airflow_previous_proof": {"stat": {"exists": True}}}
UNPROVED = {"__airflow_previous_proof": {"stat": {"exists": False}}}
SCHEMA = {"__airflow_previous_schema": {"revisions": {"a": ["1"]}, "known": {"a": ["1"]}}}


def ready(folder: Path, **found: dict[str, Any] | None) -> tuple[int, str]:
    """Ask whether all hosts can go back, after each found what is good, or what is given; status and output.

    :param found: by host; None for one that is not in the run.
    """
    hosts: dict[str, dict[str, Any]] = {host: {**GOOD, **PROVED, **SCHEMA} for host in HOSTS}
    for host, more in found.items():
        hosts[host] = {} if more is None else {**hosts[host], **more}
    groups: dict[str, Any] = {
        **{name: {"hosts": {"control1": {}}} for name in ("schedulers", "webservers", "dag_processors")},
        "workers": {"hosts": {"worker1": {}, "worker2": {}}},
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups}}))
    task = {"ansible.builtin.import_role": {"name": "dataops.airflow.cluster", "tasks_from": "rollback_ready"}}
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    limit = [host for host in HOSTS if hosts[host]]
    done = run_play(folder, "--limit", ",".join(limit))
    return done.returncode, done.stdout + done.stderr


def test_all_hosts_can_go_back(tmp_path: Path) -> None:
    status, said = ready(tmp_path)
    assert status == 0, said


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (UNPROVED, "worker1: A never became healthy here"),
        (
            {"__airflow_previous": {"path": "", "told": "no release at /opt/airflow/previous", "intact": False}}
            | UNPROVED,
            "worker1: no release at /opt/airflow/previous",
        ),
        ({"__airflow_previous": {"path": "/opt/airflow/releases/B", "told": "", "intact": True}}, "worker1: B"),
    ],
)
def test_one_host_that_cannot_holds_all(tmp_path: Path, found: dict[str, Any], words: str) -> None:
    status, said = ready(tmp_path, worker1=found)
    assert status and "No host was switched" in said, said
    assert words in said and "control1: A" in said
    assert ("never became healthy" in said) == (found == UNPROVED)
    assert "control1: A never" not in said


def test_a_host_that_is_not_in_the_run_holds_all(tmp_path: Path) -> None:
    status, said = ready(tmp_path, worker1=None)
    assert status and "No host was switched" in said, said
    assert "worker1: not in this run" in said
