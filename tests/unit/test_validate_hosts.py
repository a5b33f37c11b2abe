"""host_probe and validate_hosts as tasks, on this machine."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.playbook import run_play

INVENTORY = {
    "all": {
        "hosts": {"ctl1": {}, "db1": {}},
        "children": {"schedulers": {"hosts": {"ctl1": {}}}, "postgresql": {"hosts": {"db1": {}}}},
    }
}


def play(probe: dict[str, Any], **validate: Any) -> list[dict[str, Any]]:
    return [
        {
            "hosts": "all",
            "gather_facts": False,
            "any_errors_fatal": True,
            "tasks": [
                {"name": "Probe", "dataops.airflow.host_probe": probe, "register": "__cluster_probe"},
                {
                    "name": "Clock",
                    "ansible.builtin.debug": {"msg": "is {{ __cluster_probe.probe.clock_offset | abs < 3 }}"},
                },
                {"name": "Validate", "dataops.airflow.validate_hosts": validate, "run_once": True},
            ],
        }
    ]


def run(site: Path, content: list[dict[str, Any]], *options: str) -> str:
    """Run a play on this machine; what it says."""
    (site / "hosts.yml").write_text(yaml.safe_dump(INVENTORY))
    (site / "play.yml").write_text(yaml.safe_dump(content))
    done = run_play(site, *options)
    return done.stdout + done.stderr


def test_the_probe_reaches_the_rules(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        probe = {"ports": [{"port": port, "unit": "airflow-worker"}], "resolve": ["nope.invalid"], "paths": ["/srv/x"]}
        text = run(tmp_path, play(probe, minimum_free={"/srv/x": 2**60}), "--check")
    assert text.count("is True") == 2, text
    assert f"\nport {port} on ctl1\n  found:   taken by " in text
    assert f"process {os.getpid()}" in text
    assert "\nname nope.invalid\n  found:   not resolved on ctl1, db1\n" in text
    assert "\nfree space for /srv/x on db1\n" in text
    assert "Nothing was changed." in text
    assert "changed=1" not in text


def test_the_own_address_reaches_the_rules(tmp_path: Path) -> None:
    address = "{{ {'ctl1': '127.0.1.1', 'db1': '203.0.113.5'}[inventory_hostname] }}"
    text = run(tmp_path, play({"address": address}, minimum_free={}))
    assert "\naddress of db1\n" in text, text
    assert "address of ctl1" not in text


def test_nothing_was_probed(tmp_path: Path) -> None:
    content = play({})
    del content[0]["tasks"][:2]
    assert "No host was probed" in run(tmp_path, content)


def test_a_wheelhouse_is_compared_with_what_the_hosts_are(tmp_path: Path) -> None:
    wheelhouse = tmp_path / "wheels"
    wheelhouse.mkdir()
    content = play({}, minimum_free={})
    text = run(tmp_path, content, "-e", "airflow_wheelhouse={{ inventory_dir }}/wheels")
    assert f"\nairflow_wheelhouse {wheelhouse}\n" in text, text
    assert "without a usable wheel:" in text
    assert f" for Python {'.'.join(map(str, sys.version_info[:2]))} on " in text
    assert "airflow_wheelhouse" not in run(tmp_path, content)


def test_the_lock_of_the_site_is_compared_with_what_the_hosts_are(tmp_path: Path) -> None:
    pin = f"apache-airflow==3.3.2 --hash=sha256:{'0' * 64}\n"
    (tmp_path / "airflow-lock.txt").write_text(f"# airflow: 3.3.2\n# platform: linux s390x\n{pin}")
    text = run(tmp_path, play({}, minimum_free={}))
    assert f"\nlock {tmp_path}/airflow-lock.txt on ctl1\n" in text, text
    assert "\n  found:   it is for linux s390x, and the host has Python 3." in text, text
    (tmp_path / "airflow-lock.txt").write_text(f"# airflow: 3.3.2\n{pin}")
    assert "airflow-lock.txt on ctl1" not in run(tmp_path, play({}, minimum_free={}))
