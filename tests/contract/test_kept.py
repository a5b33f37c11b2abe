"""What a run with --limit says of the hosts that it left out: the real rule of the role cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.playbook import run_play

GROUPS = {
    "postgresql": ["db1"],
    "redis": ["db1"],
    "load_balancers": ["balancer1"],
    "schedulers": ["control1"],
    "webservers": ["control1"],
    "workers": ["worker1", "worker2"],
}


@pytest.mark.parametrize(
    ("limit", "told", "untold"),
    [
        ("all", [], ["left out"]),
        (
            "worker2",
            ["left out db1, balancer1, control1, worker1:", "db1: max_connections", "control1: parallelism", "remedy:"],
            ["worker1:  ", "worker2"],
        ),
        (
            "db1,control1",
            ["left out balancer1, worker1, worker2:", "balancer1: the list of API servers"],
            ["max_connections"],
        ),
    ],
)
def test_left_out_hosts_are_named(tmp_path: Path, limit: str, told: list[str], untold: list[str]) -> None:
    groups = {name: {"hosts": dict.fromkeys(members)} for name, members in GROUPS.items()}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    role = {"ansible.builtin.import_role": {"name": "dataops.airflow.cluster", "tasks_from": "kept"}}
    play = {"hosts": "all", "gather_facts": False, "tasks": [role]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = run_play(tmp_path, "--limit", limit)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.partition("Say what this run did not reach")[2].partition("PLAY RECAP")[0]
    for word in told:
        assert word in said, said
    for word in untold:
        assert word not in said.replace("ok: [worker2]", ""), said
