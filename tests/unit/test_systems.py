"""What differs between the operating systems that preflight admits: the real variables and templates of the roles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.dataops.airflow.plugins.module_utils.host_rules import SYSTEMS

TOP = Path(__file__).resolve().parents[2]
SHIPPED = {"12": 15, "13": 17, "22.04": 14, "24.04": 16}


@pytest.mark.parametrize("version", [version for versions in SYSTEMS.values() for version in versions])
def test_each_system_has_its_database_and_broker(tmp_path: Path, version: str) -> None:
    roles = TOP / "roles"
    tasks = [{"ansible.builtin.include_vars": str(roles / role / "vars/main.yml")} for role in ("postgresql", "redis")]
    users = {"src": str(roles / "redis/templates/users.acl.j2"), "dest": str(tmp_path / "users.acl")}
    found = {"content": "{{ [__postgresql_version, __redis_config] | to_json }}", "dest": str(tmp_path / "found.json")}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {
            "cluster_host": {"os": {"version_id": version}},
            "cluster_host_memory": 4096,
            "cluster_address": "192.0.2.1",
            "cluster_redis_port": 6379,
            "redis_config": {},
            "redis_maxmemory_percent": 50,
            "redis_admin_password": "a",
            "cluster_redis_user": "airflow",
            "cluster_redis_password": "b",
            "cluster_redis_flower_password": "",
        },
        "tasks": [*tasks, {"ansible.builtin.template": users}, {"ansible.builtin.copy": found}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", "play.yml"],
        cwd=tmp_path,
        env={
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    postgresql, redis = yaml.safe_load((tmp_path / "found.json").read_text())
    text = (tmp_path / "users.acl").read_text()
    assert int(postgresql) == SHIPPED[version]
    # Redis 6.0 knows neither.
    assert ("disable-thp" in redis, " ~* &* +@all" in text) == ((False, False) if version == "22.04" else (True, True))
    assert text.count(" ~*") == 2 and text.count(" +@all") == 2
