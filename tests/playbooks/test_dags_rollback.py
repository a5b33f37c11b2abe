"""When dags.yml and dags_rollback.yml refuse: rules of the role cluster, on hosts that only say what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbook import run_play

HOSTS = ("control1", "worker1", "worker2")
DIGEST, OTHER = "0123456789abcdef", "fedcba9876543210"
GOOD = {"recorded": DIGEST, "digest": DIGEST, "revision": "c0ffee"}


def ready(folder: Path, entry: str, limit: str = "all", away: str = "", **ways: Any) -> tuple[int, str]:
    """Run an entry point after each host found the good way back, or the given one; status and output."""
    hosts: dict[str, Any] = {host: {"__airflow_dags_before": {"way_back": ways.get(host, GOOD)}} for host in HOSTS}
    if away:
        hosts[away] = {"__cluster_probe": {"unreachable": True, "msg": "no route"}}
    groups: dict[str, Any] = {
        **{name: {"hosts": {"control1": {}}} for name in ("schedulers", "webservers", "dag_processors")},
        "workers": {"hosts": {"worker1": {}, "worker2": {}}},
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups}}))
    task = {"ansible.builtin.import_role": {"name": "dataops.airflow.cluster", "tasks_from": entry}}
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    done = run_play(folder, "--limit", limit)
    return done.returncode, done.stdout + done.stderr


def test_all_hosts_can_go_back(tmp_path: Path) -> None:
    status, said = ready(tmp_path, "dags_rollback_ready")
    assert status == 0, said


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ({"recorded": None, "digest": None, "revision": ""}, "worker1: none"),
        ({"recorded": OTHER, "digest": OTHER, "revision": "c0ffee"}, f"worker1: {OTHER} of commit c0ffee"),
        ({"recorded": DIGEST, "digest": DIGEST, "revision": "bad"}, f"worker1: {DIGEST} of commit bad"),
        ({"recorded": DIGEST, "digest": OTHER, "revision": "c0ffee"}, "of commit c0ffee changed on the host"),
        ({"recorded": DIGEST, "digest": None, "revision": "c0ffee"}, "of commit c0ffee changed on the host"),
    ],
)
def test_one_host_that_cannot_holds_all(tmp_path: Path, way: dict[str, Any], words: str) -> None:
    status, said = ready(tmp_path, "dags_rollback_ready", worker1=way)
    assert status and "No host was switched" in said, said
    assert words in said and f"control1: {DIGEST} of commit c0ffee" in said


def test_a_worker_that_is_away_holds_nobody(tmp_path: Path) -> None:
    status, said = ready(tmp_path, "dags_rollback_ready", away="worker1")
    assert status == 0, said
    status, said = ready(tmp_path, "dags_rollback_ready", away="worker1", worker2={**GOOD, "revision": "bad"})
    assert status and "worker2: " in said and "worker1: " not in said, said


def test_none_has_a_way_back(tmp_path: Path) -> None:
    way = {"recorded": None, "digest": None, "revision": ""}
    status, said = ready(tmp_path, "dags_rollback_ready", control1=way, worker1=way, worker2=way)
    assert status and "control1: none" in said, said


@pytest.mark.parametrize("entry", ["dags_rollback_ready", "dags_ready"])
def test_a_host_that_is_not_in_the_run_holds_all(tmp_path: Path, entry: str) -> None:
    status, said = ready(tmp_path, entry, "control1,worker2")
    assert status and "remedy:" in said, said
    if entry == "dags_ready":
        assert "this run leaves out worker1" in said
        assert ready(tmp_path, entry)[0] == 0
