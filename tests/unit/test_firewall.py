"""Which host accepts which port from whom: the real expressions and the template of the roles, and nft itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from expressions import CHECKOUT, evaluate

from tests.playbook import run_play

TEMPLATE = (CHECKOUT / "roles/firewall/templates/rules.nft.j2").read_text()
ADDRESSES = {
    "db1": "10.0.0.1",
    "lb1": "10.0.0.9",
    "control1": "10.0.0.11",
    "worker1": "10.0.0.21",
    "worker2": "worker2.example.org",
}
RESOLVED = {**{address: [address] for address in ADDRESSES.values()}, "worker2.example.org": ["10.0.0.22", "fd00::22"]}
GROUPS = {
    "postgresql": ["db1"],
    "redis": ["db1"],
    "schedulers": ["control1"],
    "webservers": ["control1"],
    "dag_processors": ["control1"],
    "triggerers": ["control1"],
    "flower": ["control1"],
    "workers": ["worker1", "worker2"],
}
SETTINGS = {
    "ansible_managed": "Ansible managed",
    "airflow_executor": "",
    "cluster_database_name": "airflow",
    "cluster_database_user": "airflow",
    "cluster_results_name": "results",
    "cluster_results_user": "results",
    "cluster_database_port": 5432,
    "cluster_redis_port": "6379",
    "cluster_balancer_port": 8081,
    "cluster_webserver_port": 8080,
    "cluster_flower_port": 5555,
    "cluster_worker_log_port": 8793,
    "cluster_triggerer_log_port": 8794,
    "cluster_scheduler_health_port": 8974,
    "cluster_firewall": True,
    "cluster_host": {"addresses": RESOLVED},
    "firewall_webserver_sources": ["0.0.0.0/0", "::/0"],
    "firewall_flower_sources": ["10.0.9.0/24"],
    "firewall_database_sources": [],
    "firewall_redis_sources": [],
}


def host(name: str, leaving: str = "", run: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """What the roles see on a host.

    :param leaving: the worker that is taken out.
    :param run: hosts of the run; all.
    :param changes: groups with other members.
    """
    groups = {**GROUPS, **changes}
    found: dict[str, Any] = {
        **SETTINGS,
        "inventory_hostname": name,
        "groups": {"all": list(ADDRESSES), **groups},
        "group_names": [group for group, members in groups.items() if name in members],
        "hostvars": {known: {"ansible_host": address} for known, address in ADDRESSES.items()},
        "ansible_play_hosts_all": list(ADDRESSES) if run is None else run,
    }
    if leaving:
        found["__cluster_leaving"] = {"worker": leaving}
    return found


def rules(name: str, **changes: Any) -> str:
    """Text of the rules of a host."""
    return str(evaluate(TEMPLATE, ("cluster", "firewall"), host(name, **changes)))


def accepted(text: str) -> dict[str, list[int]]:
    """Host to the ports that it may connect to."""
    found: dict[str, list[int]] = {}
    for line in text.splitlines():
        if line.startswith("add element"):
            ports = {int(port) for port in re.findall(r" \. (\d+)", line)}
            found[line.rpartition("  # ")[2]] = sorted(ports)
    return found


def closed(text: str) -> list[int]:
    """Ports that are closed to everybody else."""
    (line,) = [line for line in text.splitlines() if line.endswith(" drop")]
    assert line.strip().startswith("tcp dport {"), "nothing else may ever be dropped"
    return sorted(map(int, re.findall(r"\d+", line)))


@pytest.mark.parametrize(
    ("name", "ports", "hosts"),
    [
        ("db1", [5432, 6379], {"control1": [5432, 6379], "worker1": [5432, 6379], "worker2": [5432, 6379]}),
        ("control1", [5555, 8080, 8794, 8974], {"worker1": [8080], "worker2": [8080]}),
        ("worker1", [8793], {"control1": [8793]}),
    ],
)
def test_each_port_is_open_to_those_who_need_it(name: str, ports: list[int], hosts: dict[str, list[int]]) -> None:
    text = rules(name)
    assert closed(text) == ports
    assert accepted(text) == hosts


def test_browsers_do_not_pass_the_balancer_by() -> None:
    """Hosts of Airflow may: those that run still with the settings of before know nothing of it."""
    text = rules("control1", load_balancers=["lb1"])
    assert accepted(text) == {"lb1": [8080], "worker1": [8080], "worker2": [8080]}
    assert " 8080 accept" not in text and "ip saddr 10.0.9.0/24 tcp dport 5555 accept" in text
    text = rules("lb1", load_balancers=["lb1"])
    assert closed(text) == [8081]
    assert accepted(text) == {"control1": [8081], "worker1": [8081], "worker2": [8081]}
    assert "ip saddr 0.0.0.0/0 tcp dport 8081 accept" in text and "ip6 saddr ::/0 tcp dport 8081 accept" in text


def test_browsers_come_by_tls_alone() -> None:
    known = host("lb1", load_balancers=["lb1"])
    known["hostvars"]["lb1"] |= {"haproxy_certificate": "/site/airflow.pem", "haproxy_flower": True}
    text = str(evaluate(TEMPLATE, ("cluster", "firewall"), known))
    assert closed(text) == [80, 443, 8081]
    for port in (80, 443):
        assert f"ip saddr 0.0.0.0/0 tcp dport {port} accept" in text
    assert " 8081 accept" not in text and accepted(text)["worker1"] == [8081]
    known = {**host("control1", load_balancers=["lb1"]), "hostvars": known["hostvars"]}
    text = str(evaluate(TEMPLATE, ("cluster", "firewall"), known))
    assert accepted(text) == {"lb1": [5555, 8080], "worker1": [8080], "worker2": [8080]} and " 5555 accept" not in text


def test_without_celery_the_scheduler_serves_the_logs() -> None:
    text = rules("control1", workers=[], flower=[], redis=[], postgresql=["control1"], webservers=["lb1"])
    assert closed(text) == [5432, 8793, 8794, 8974]
    assert accepted(text) == {"lb1": [5432, 8793, 8794]}


def test_a_name_is_what_the_host_takes_it_for() -> None:
    (line,) = [line for line in rules("db1").splitlines() if line.endswith("# worker2")]
    assert "hosts4 { 10.0.0.22 . 5432, 10.0.0.22 . 6379 }; " in line and "hosts6 { fd00::22 . 5432" in line


def test_a_worker_that_leaves() -> None:
    assert list(accepted(rules("db1", leaving="worker2"))) == ["control1", "worker1"]
    assert evaluate("{{ __firewall_wanted }}", ("cluster", "firewall"), host("worker2", leaving="worker2")) is False
    assert evaluate("{{ __firewall_wanted }}", ("cluster", "firewall"), host("worker2")) is True
    assert evaluate("{{ __firewall_wanted }}", ("cluster", "firewall"), host("lb1")) is False


@pytest.mark.parametrize(
    ("name", "run", "servers"),
    [
        ("worker2", None, []),
        ("worker2", ["worker2"], [{"server": "db1", "ports": [5432, 6379]}, {"server": "control1", "ports": [8080]}]),
        ("worker2", ["worker2", "control1"], [{"server": "db1", "ports": [5432, 6379]}]),
        ("lb1", ["lb1"], []),
    ],
)
def test_servers_that_learn_of_a_new_host(name: str, run: list[str] | None, servers: list[dict[str, Any]]) -> None:
    found = evaluate("{{ __cluster_servers_left_out }}", ("cluster",), host(name, run=run))
    assert found == servers
    off = {**host(name, run=run), "cluster_firewall": False}
    assert evaluate("{{ __cluster_servers_left_out }}", ("cluster",), off) == []


def test_a_line_that_is_added_is_that_of_a_full_run() -> None:
    full = [line for line in rules("db1").splitlines() if line.endswith("# worker2")]
    peer = {"host": "worker2", "addresses": RESOLVED["worker2.example.org"], "ports": [5432, 6379]}
    known = {**host("worker2"), "__firewall_peers": [peer]}
    assert evaluate("{{ __firewall_lines }}", ("cluster", "firewall"), known) == full
    assert rules("db1").rstrip().endswith(full[0]), "it goes below the others"


needs_nft = pytest.mark.skipif(
    not shutil.which("nft")
    or subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs nft and root",
)


@needs_nft
@pytest.mark.parametrize("name", ["control1", "worker1"])
def test_nft_takes_them_and_takes_them_again(name: str, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(rules(name) + "\n")
    twice = "nft -f $0 && nft -f $0 && nft --stateless list table inet dataops_airflow"
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", twice, str(tmp_path / "rules")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "policy accept" in done.stdout and done.stdout.count(" drop") == 1


@needs_nft
def test_packets(tmp_path: Path) -> None:
    """The kernel's own word, by IPv4 and IPv6: worker2 is .22, and .99 is nobody."""
    (tmp_path / "rules").write_text(rules("db1") + "\n")
    program = str(CHECKOUT / "tests/unit/firewall_packets.py")
    argv = ["unshare", "-n", sys.executable, program, str(tmp_path / "rules")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    every, others = [22, 4711, 5432, 6379], [22, 4711]
    assert json.loads(done.stdout) == {
        "open": "still here",
        "10.0.0.22": every,
        "10.0.0.99": others,
        "fd00::22": every,
        "fd00::99": others,
        "itself": every,
    }


@needs_nft
def test_the_unit_says_what_it_put_into_force(tmp_path: Path) -> None:
    """The unit's own commands, and the question that tasks ask: in a network of its own, with `systemctl` played."""
    own = {
        "__firewall_rules": str(tmp_path / "rules"),
        "__firewall_record": str(tmp_path / "record"),
        "__firewall_service": "fw.service",
    }
    known = {**host("db1"), **own}
    (tmp_path / "rules").write_text(str(evaluate(TEMPLATE, ("cluster", "firewall"), known)) + "\n")
    unit = evaluate((CHECKOUT / "roles/firewall/templates/unit.j2").read_text(), ("cluster", "firewall"), known)
    (start, stop) = (
        " && ".join(re.findall(rf"(?m)^{directive}=-?(.*)$", unit)) for directive in ("ExecStart", "ExecStop")
    )
    assert re.findall(r"(?m)^ExecStart=(.*)$", unit) == re.findall(r"(?m)^ExecReload=(.*)$", unit)
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\ntest -e {tmp_path}/enabled\n")
    (tmp_path / "systemctl").chmod(0o755)
    asked = evaluate("{{ __firewall_in_force }}", ("cluster", "firewall"), known)
    table = "inet dataops_airflow"
    steps = {
        "bare": ":",
        "not enabled": start,
        "in force": f"touch {tmp_path}/enabled",
        "a rule more": f"nft insert rule {table} input accept",
        "mended": start,
        "an element more": f"nft add element {table} hosts4 {{ 10.0.0.99 . 5432 }}",
        "mended again": start,
        "another file": f"sed -i '/# worker1$/d' {tmp_path}/rules",
        "with that": start,
        "gone": "nft flush ruleset",
        "back": start,
        "stopped": stop,
    }
    script = "".join(f"{{ {step}; }} >&2; if {asked}; then echo '{name}'; fi\n" for name, step in steps.items())
    argv = ["unshare", "-n", "sh", "-ec", f"PATH={tmp_path}:$PATH\n{script}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["in force", "mended", "mended again", "with that", "back"]


@needs_nft
def test_a_new_host_is_written_where_a_full_run_has_it(tmp_path: Path) -> None:
    """The tasks that add a line on servers that --limit leaves out, with files of this machine in place of theirs."""
    for server in ("db1", "control1"):
        text = rules(server)
        (tmp_path / server).write_text(text + "\n")
        (tmp_path / f"{server}.full").write_text(text + "\n")
    for path, old in (("db1", r"(?m)^add.*# worker2\n"), ("control1", r"(?m)^add.*# worker2\n")):
        (tmp_path / path).write_text(re.sub(old, "", (tmp_path / path).read_text()))
    (tmp_path / "getent").write_text("#!/bin/sh\necho '10.0.0.22 STREAM worker2'\necho 'fd00::22 STREAM '\n")
    (tmp_path / "getent").chmod(0o755)
    hosts = {name: {"ansible_host": address} for name, address in ADDRESSES.items()}
    groups = {name: {"hosts": dict.fromkeys(members)} for name, members in GROUPS.items()}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups}}))
    tasks = yaml.safe_load((CHECKOUT / "roles/firewall/tasks/admit.yml").read_text())
    assert [next(key for key in task if "." in key).rpartition(".")[2] for task in tasks] == [
        "command",
        "lineinfile",
        "systemd_service",
    ]
    files = [str(CHECKOUT / "roles" / role / "vars/main.yml") for role in ("cluster", "firewall")]
    place = f"{tmp_path}/{{{{ item.server | default(item.item.server) }}}}"
    play = {
        "hosts": "worker2",
        "gather_facts": False,
        "vars_files": files,
        "environment": {"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"},
        "tasks": [{"vars": {"__firewall_rules": place}, "block": tasks[:2]}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    settings = {name: value for name, value in SETTINGS.items() if name not in ("cluster_host", "ansible_managed")}
    for changed in (1, 0):
        done = run_play(tmp_path, "--limit", "worker2", "-e", json.dumps(settings))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"changed={changed}" in done.stdout, done.stdout
        for server in ("db1", "control1"):
            assert (tmp_path / server).read_text() == (tmp_path / f"{server}.full").read_text()
    # A server without rules learns nothing.
    (tmp_path / "db1").unlink()
    done = run_play(tmp_path, "--limit", "worker2", "-e", json.dumps(settings))
    assert done.returncode == 0 and not (tmp_path / "db1").exists(), done.stdout + done.stderr
