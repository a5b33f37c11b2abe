"""When Airflow is left as it is: the real rule of the role cluster, on hosts that only say what they have."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.playbook import run_play

GROUPS = {"schedulers": ["control1"], "webservers": ["control1"], "dag_processors": ["control1"]}
WORKERS = ["worker1", "worker2"]


def ready(
    folder: Path,
    fingerprints: dict[str, str],
    broken: str = "",
    away: str = "",
    digests: dict[str, str] | None = None,
    balancer: int = 0,
) -> tuple[int, str]:
    """Go on to restart after the hosts found these fingerprints, and one failed; status and output.

    :param broken: this one, in the middle of its work.
    :param away: this one, because it could not be reached.
    :param digests: those of the hosts' DAGs; the rule is that of verify.yml then.
    :param balancer: port of a load balancer on this machine.
    """
    hosts: dict[str, Any] = {
        host: {"__airflow_release": {"fingerprint": fingerprints.get(host, "")}}
        for host in ["control1", *WORKERS, "other"]
    }
    for host, digest in (digests or {}).items():
        hosts[host]["__airflow_dags"] = {"digest": digest}
    if away:
        hosts[away] = {"__cluster_probe": {"unreachable": True}}
    groups = {name: {"hosts": dict.fromkeys(members)} for name, members in {**GROUPS, "workers": WORKERS}.items()}
    if balancer:
        groups["load_balancers"] = {"hosts": {"other": None}}
        hosts["other"] |= {"cluster_address": "127.0.0.1"}
        for values in hosts.values():
            values["cluster_balancer_port"] = balancer
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups}}))
    entry = "report" if digests else "ready"
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.fail": {"msg": "broken"}, "when": f"inventory_hostname in ['{broken}', '{away}']"},
        {"ansible.builtin.import_role": {"name": "dataops.airflow.cluster", "tasks_from": entry}},
        {"ansible.builtin.debug": {"msg": "RESTARTS {{ inventory_hostname }}"}},
    ]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = run_play(folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "fingerprints",
    [dict.fromkeys(["control1", *WORKERS], "aaaa"), {"control1": "aaaa"}],
    ids=["one environment", "hosts that a check has not built yet"],
)
def test_one_environment_goes_on(tmp_path: Path, fingerprints: dict[str, str]) -> None:
    status, said = ready(tmp_path, {**fingerprints, "other": "not Airflow's"})
    assert status == 0 and said.count("RESTARTS") == 4, said


def test_two_environments_are_refused_before_anything_restarts(tmp_path: Path) -> None:
    status, said = ready(tmp_path, {"control1": "aaaa", "worker1": "aaaa", "worker2": "bbbb"})
    assert status and "RESTARTS" not in said, said
    for words in ("do not have the same packages; no service was restarted", "allowed: one fingerprint", "remedy:"):
        assert words in said
    for host, fingerprint in (("control1", "aaaa"), ("worker1", "aaaa"), ("worker2", "bbbb")):
        assert f"'{host}': '{fingerprint}'" in said


def test_a_host_that_failed_before_holds_all(tmp_path: Path) -> None:
    status, said = ready(tmp_path, dict.fromkeys(["control1", *WORKERS], "aaaa"), broken="worker2")
    assert status and "RESTARTS" not in said, said
    assert "because worker2 failed above" in said


def test_a_worker_that_was_away_holds_nobody(tmp_path: Path) -> None:
    status, said = ready(tmp_path, dict.fromkeys(["control1", "worker1"], "aaaa"), away="worker2")
    assert status and said.count("RESTARTS") == 3, said


def test_verify_tells_of_other_dags(tmp_path: Path) -> None:
    fingerprints = dict.fromkeys(["control1", *WORKERS], "aaaa")
    status, said = ready(tmp_path, fingerprints, digests={"control1": "d1", "worker1": "d1", "worker2": "d2"})
    assert status and "RESTARTS" not in said, said
    for words in ("The Airflow hosts are not identical", "'worker1': 'd1'", "'worker2': 'd2'", "remedy:"):
        assert words in said, words


def test_a_balancer_that_is_there(tmp_path: Path) -> None:
    fingerprints = dict.fromkeys(["control1", *WORKERS], "aaaa")
    with socket.create_server(("127.0.0.1", 0)) as server:
        status, said = ready(tmp_path, fingerprints, balancer=server.getsockname()[1])
    assert status == 0 and said.count("RESTARTS") == 4, said


def test_a_balancer_that_is_not_there(tmp_path: Path) -> None:
    status, said = ready(tmp_path, dict.fromkeys(["control1", *WORKERS], "aaaa"), balancer=1)
    assert status and "RESTARTS control1" not in said, said
    for words in ("does not reach the load balancer", "port 1 of 127.0.0.1", "remedy:"):
        assert words in said, words
