"""A cluster on Debian 13, and a worker on Debian 12 that joins it."""

from __future__ import annotations

import subprocess

import pytest
from conftest import INVENTORY, TOP, changes, restarted

SSH = ["ssh", "-F", str(TOP / ".lab/debian13/ssh_config")]
AIRFLOW_HOSTS = ("control1", "worker1", "worker2", "worker3")


def test_everything_is_of_this_release(cluster):
    assert 'VERSION_ID="13"' in cluster.host("worker1").file("/etc/os-release").content_string
    version = cluster.host("worker1").check_output("/opt/airflow/current/bin/python --version")
    assert version.startswith("Python 3.13.")
    assert cluster.host("db1").check_output("psql --version").split()[2].startswith("17.")
    assert "v=8." in cluster.host("db1").check_output("redis-server --version")


@pytest.mark.long
def test_host_with_another_python_is_refused(cluster):
    before = cluster.started()
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("        worker2:\n", "        worker2:\n        worker3:\n"))
    cluster.read_inventory()
    cluster.play("lab/create.yml", environment={"LAB_SUITE": "bookworm"})
    output = cluster.play("site.yml", succeeds=False)
    for word in ("3.11 on worker3 (Debian GNU/Linux 12", "3.13 on worker1", "airflow_python", "found:", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    assert restarted(before, cluster.started()) == set()


@pytest.mark.long
def test_an_interpreter_that_all_have_is_accepted(cluster):
    """Debian 12's Python, unpacked at the same place everywhere, as one would do with a build of one's own."""
    pack = (
        "apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv > /dev/null"
        " && tar --create --directory /usr bin/python3.11 lib/python3.11"
    )
    packed = subprocess.run([*SSH, "worker3", pack], capture_output=True, check=True).stdout
    for host in AIRFLOW_HOSTS:
        unpack = "mkdir -p /opt/python3.11 && tar --extract --directory /opt/python3.11"
        subprocess.run([*SSH, host, unpack], input=packed, check=True)
    cluster.change("group_vars/all/zzz_change.yml", "---\nairflow_python: /opt/python3.11/bin/python3.11\n")
    cluster.play("site.yml")
    versions = {cluster.host(host).check_output("/opt/airflow/current/bin/python --version") for host in AIRFLOW_HOSTS}
    assert len(versions) == 1 and versions.pop().startswith("Python 3.11.")
    output = cluster.play("playbooks/verify.yml")
    assert "worker3" in output
    assert changes(cluster.play("site.yml")) == 0
