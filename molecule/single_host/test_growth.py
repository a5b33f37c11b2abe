"""The first host becomes a Celery cluster by an edit of the groups, and forgets nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import quote

from conftest import INVENTORY, TOP, Api, Cluster, changes, leaked, restarted

HOSTS = ("control1", "worker1")
OWN_IMAGE = "localhost/own-image:1"


def runs(api: Api, dag: str) -> list[str]:
    """IDs of all runs of a DAG."""
    return [run["dag_run_id"] for run in api.ask("GET", f"/api/v2/dags/{dag}/dagRuns?limit=100")[1]["dag_runs"]]


def everything(cluster: Cluster) -> set[str]:
    """All files that no service writes to, with when, by whom and how they were changed."""
    command = "find /etc /usr/local /opt -xdev -printf '%p %C@ %m %u\\n'"
    return {f"{host} {line}" for host in HOSTS for line in cluster.host(host).check_output(command).splitlines()}


def test_single_host_grows_into_a_cluster(cluster, api, web_url):
    tasks = api.run_dag("parallel_dag")
    before = {dag: runs(api, dag) for dag in ("parallel_dag", "dataops_canary")}
    assert all(before.values())
    api.ask("POST", "/api/v2/variables", {"key": "kept", "value": "through the change"})

    (INVENTORY / "hosts.yml").write_text((Path(__file__).parent / "files" / "grown.yml").read_text())
    cluster.read_inventory()
    # The new host is of an image that the user names.
    image = subprocess.run(["lab/image.sh"], cwd=TOP, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["podman", "tag", image, OWN_IMAGE], check=True)
    try:
        cluster.play("lab/create.yml", environment={"TEST_IMAGE": OWN_IMAGE})
        argv = ["podman", "ps", "--format", "{{.Image}}"]
        used = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    finally:
        subprocess.run(["podman", "untag", OWN_IMAGE, OWN_IMAGE], check=True)
    assert used.count(OWN_IMAGE) == 1
    # Broker, results database and worker are made here; before, the output of a first run may show no secret either.
    output = cluster.play("site.yml", "--diff", "-vvv")
    assert leaked(cluster.secrets, output) == []
    assert leaked({"x": "worker1"}, output) == ["x"]

    # Verification changes nothing but the DAG run that it makes.
    before_verify, kept = cluster.started(), everything(cluster)
    output = cluster.play("playbooks/verify.yml")
    assert restarted(before_verify, cluster.started()) == set()
    assert everything(cluster) ^ kept == set()
    assert changes(output) == 0
    for host, component in (
        ("control1", "postgresql"),
        ("control1", "redis"),
        ("control1", "airflow-scheduler"),
        ("worker1", "airflow-worker"),
    ):
        assert re.search(rf"{host} +{component} +(yes|[\d.]+ s) +\S", output), f"{component} in the table"
    for words in ("two overlapped for", "The log of one task of each worker was read"):
        assert words in output, words
    assert "Executor CeleryExecutor" in output
    assert cluster.host("control1").check_output("airflow config get-value core executor") == "CeleryExecutor"

    again = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    for dag, known in before.items():
        assert set(known) <= set(runs(again, dag))
    assert again.ask("GET", "/api/v2/variables/kept")[1]["value"] == "through the change"
    run = quote(tasks[0]["dag_run_id"], safe="")
    log = again.ask("GET", f"/api/v2/dags/parallel_dag/dagRuns/{run}/taskInstances/task_2/logs/1")[1]
    assert "sleep 3" in str(log), "the log of a task that ran before the change"
    ran_on = {task["hostname"] for task in again.run_dag("parallel_dag")}
    assert ran_on == {cluster.address("worker1")}


def test_moved_component_leaves_nothing_behind(cluster):
    hosts = (INVENTORY / "hosts.yml").read_text()
    there = "triggerers: {children: {control: {}}}"
    assert there in hosts
    cluster.change("hosts.yml", hosts.replace(there, "triggerers: {hosts: {worker1: {}}}"))
    cluster.play("site.yml")
    assert cluster.host("worker1").service("airflow-triggerer").is_running
    control = cluster.host("control1")
    assert not control.service("airflow-triggerer").is_running
    assert not control.file("/etc/systemd/system/airflow-triggerer.service").exists
    assert not control.file("/etc/airflow/triggerer.env").exists

    cluster.change("hosts.yml", hosts)
    cluster.play("site.yml")
    assert control.service("airflow-triggerer").is_running
    left = cluster.host("worker1").check_output("ls /etc/airflow").split()
    assert sorted(left) == ["python", "release", "worker.cfg", "worker.env"]
    cluster.play("playbooks/verify.yml")
