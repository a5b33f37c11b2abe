"""The first host becomes a Celery cluster by an edit of the groups, goes back by another, and forgets nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import INVENTORY, OWN_DAGS, SCENARIO, TOP, Api, Cluster, changes, leaked, restarted, wait_until

HOSTS = ("control1", "worker1")
OWN_IMAGE = "localhost/own-image:1"
FILES = Path(__file__).parent / "files"
USER = ("someone", "someone's own password")


def runs(api: Api, dag: str) -> list[str]:
    """IDs of all runs of a DAG."""
    return [run["dag_run_id"] for run in api.ask("GET", f"/api/v2/dags/{dag}/dagRuns?limit=100")[1]["dag_runs"]]


def leave_something(cluster: Cluster, api: Api) -> None:
    """Make a user, a connection and a variable."""
    name, password = USER
    who = "--role Viewer --firstname A --lastname B --email a@example.org"
    cluster.host("control1").check_output(f"airflow users create --username %s --password %s {who}", name, password)
    connection = {"connection_id": "kept", "conn_type": "http", "host": "example.org", "password": "of a connection"}
    assert api.ask("POST", "/api/v2/connections", connection)[0] == 201
    assert api.ask("POST", "/api/v2/variables", {"key": "kept", "value": "through the change"})[0] == 201


def assert_kept(cluster: Cluster, api: Api, known: dict[str, list[str]]) -> None:
    """Require that they are still there, the connection's password among them, and so are the runs."""
    for dag, ids in known.items():
        assert set(ids) <= set(runs(api, dag))
    assert api.ask("GET", "/api/v2/variables/kept")[1]["value"] == "through the change"
    uri = cluster.host("control1").check_output("airflow connections export --file-format json - 2>/dev/null")
    assert "of a connection" in uri
    Api(api.url, *USER)


def log_of(api: Api, run: str, task: str) -> str:
    """Log of the first try of a task, as the web UI gets it."""
    return str(api.ask("GET", f"{run}/taskInstances/{task}/logs/1")[1])


def everything(cluster: Cluster) -> set[str]:
    """All files that no service writes to, with when, by whom and how they were changed."""
    command = "find /etc /usr/local /opt -xdev -printf '%p %C@ %m %u\\n'"
    return {f"{host} {line}" for host in HOSTS for line in cluster.host(host).check_output(command).splitlines()}


def test_single_host_grows_into_a_cluster(cluster, api, web_url):
    tasks = api.run_dag("parallel_dag")
    before = {dag: runs(api, dag) for dag in ("parallel_dag", "dataops_canary")}
    assert all(before.values())
    leave_something(cluster, api)

    (INVENTORY / "hosts.yml").write_text((FILES / "grown.yml").read_text())
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
    assert_kept(cluster, again, before)
    run = f"/api/v2/dags/parallel_dag/dagRuns/{quote(tasks[0]['dag_run_id'], safe='')}"
    assert "sleep 3" in log_of(again, run, "task_2"), "the log of a task that ran before the change"
    ran_on = {task["hostname"] for task in again.run_dag("parallel_dag")}
    assert ran_on == {cluster.address("worker1")}


@pytest.mark.long
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
    assert sorted(left) == ["api-server", "kubernetes", "python", "release", "tls-keys", "worker.cfg", "worker.env"]
    cluster.play("playbooks/verify.yml")


def move_the_databases(cluster: Cluster, old: str, new: str, inventory: str) -> None:
    """Do what docs/database.md tells."""
    page = (TOP / "docs/database.md").read_text()
    blocks = re.findall(r"(?s)```console\n(.*?)```", page)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    first, stop, dump, rename, disable, server, restore = filter(None, lines)
    for command in (first, stop):
        for host in HOSTS:
            cluster.host(host).check_output(command)
    for line in (dump, rename, disable):
        cluster.host(old).check_output(line)
    content = cluster.host(old).check_output("base64 --wrap=0 /var/lib/postgresql/airflow.dump")
    cluster.change("hosts.yml", inventory)
    assert server.endswith("playbooks/postgresql.yml")
    cluster.play("playbooks/postgresql.yml")
    dump_there = "/var/lib/postgresql/airflow.dump"
    write = f"umask 077; base64 --decode > {dump_there}; chown postgres: {dump_there}"
    ssh = ("ssh", "-F", str(TOP / ".lab" / SCENARIO / "ssh_config"), new)
    subprocess.run([*ssh, write], input=content, text=True, check=True)
    cluster.host(new).check_output(restore)
    cluster.play("site.yml")
    cluster.play("playbooks/verify.yml")


@pytest.mark.long
def test_the_databases_move_to_another_host(cluster, web_url):
    """Never by themselves: a new server would begin empty."""
    here = (INVENTORY / "hosts.yml").read_text()
    place = "    postgresql:\n      hosts:\n        {}:\n"
    assert place.format("control1") in here
    there = here.replace(place.format("control1"), place.format("worker1"))
    api = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    known = {dag: runs(api, dag) for dag in ("parallel_dag", "dataops_canary")}
    before = cluster.started()
    cluster.change("hosts.yml", there)
    output = cluster.play("site.yml", succeeds=False)
    assert "the databases are on control1" in " ".join(output.split()) and "docs/database.md" in output
    assert changes(output) == 0 and restarted(before, cluster.started()) == set()

    move_the_databases(cluster, "control1", "worker1", there)
    assert not cluster.host("control1").socket("tcp://5432").is_listening
    assert_kept(cluster, Api(web_url, "admin", cluster.secrets["airflow_admin_password"]), known)
    move_the_databases(cluster, "worker1", "control1", here)
    assert_kept(cluster, Api(web_url, "admin", cluster.secrets["airflow_admin_password"]), known)


def test_two_executors_beside_each_other(cluster, web_url):
    """A worker on the scheduler's host, too: one of the two serves the logs of both."""
    hosts = (INVENTORY / "hosts.yml").read_text()
    there = "workers:\n      hosts:\n"
    assert there in hosts
    cluster.change("hosts.yml", hosts.replace(there, f"{there}        control1:\n"))
    cluster.change("group_vars/all/executors.yml", "---\nairflow_executor: CeleryExecutor,quick:LocalExecutor\n")
    cluster.play("site.yml", *OWN_DAGS)
    control = cluster.host("control1")
    assert control.check_output("airflow config get-value core executor") == "CeleryExecutor,quick:LocalExecutor"
    assert control.check_output("airflow config get-value core parallelism") == "80"
    owner = control.check_output("ss --listening --tcp --processes --no-header 'sport = 8793'")
    pid = re.findall(r"pid=(\d+)", owner)[0]
    assert "airflow-worker.service" in control.file(f"/proc/{pid}/cgroup").content_string

    api = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    run = api.start_dag("both")
    wait_until(lambda: api.ask("GET", run)[1]["state"] in ("success", "failed"), 120)
    ran_on = {task["task_id"]: (task["state"], task["hostname"]) for task in api.tasks(run)}
    addresses = {"celery": cluster.address("worker1"), "local": cluster.address("control1")}
    assert ran_on == {name: ("success", address) for name, address in addresses.items()}
    for name in ran_on:
        assert f"by {name}" in log_of(api, run, name)
    output = cluster.play("playbooks/verify.yml", *OWN_DAGS)
    assert "Executor CeleryExecutor,quick:LocalExecutor, parallelism 80, 32 worker slots" in output
    assert "Off: cluster_tls" in output and "cluster_firewall (" in output
    canary = runs(api, "dataops_canary")[-1]
    names = {task["task_id"] for task in api.tasks(f"/api/v2/dags/dataops_canary/dagRuns/{quote(canary, safe='')}")}
    assert {"on_control1", "on_worker1", "by_LocalExecutor"} <= names
    assert changes(cluster.play("site.yml", *OWN_DAGS)) == 0


def test_cluster_goes_back_to_one_host(cluster, web_url):
    password = cluster.secrets["airflow_admin_password"]
    api = Api(web_url, "admin", password)
    before = {dag: runs(api, dag) for dag in ("parallel_dag", "dataops_canary", "both")}
    assert all(before.values())
    run = api.start_dag("patient")
    wait_until(lambda: [task["state"] for task in api.tasks(run)] == ["running"], 60)
    worker_address = cluster.address("worker1")

    (INVENTORY / "group_vars/all/executors.yml").unlink()
    cluster.change("hosts.yml", (FILES / "back.yml").read_text())
    cluster.play("site.yml", *OWN_DAGS)
    control, worker = cluster.host("control1"), cluster.host("worker1")

    # The task that ran there was neither ended nor begun anew, and its log came along.
    again = Api(web_url, "admin", password)
    (task,) = again.tasks(run)
    assert (task["state"], task["try_number"], task["hostname"]) == ("success", 1, worker_address)
    assert "well rested" in log_of(again, run, "rest")
    assert_kept(cluster, again, before)

    assert control.check_output("airflow config get-value core executor") == "LocalExecutor"
    for host in (control, worker):
        assert not host.service("airflow-worker").is_running
        assert host.check_output("find /etc/systemd/system -name 'airflow-worker*' -o -name 'airflow-flower*'") == ""
        assert host.check_output("find /etc/airflow -name 'worker.*' -o -name 'flower.*'") == ""
    assert worker.check_output("find /etc/systemd/system -name 'airflow-*'") == ""
    assert worker.check_output("pgrep --count --uid airflow || true") == "0"
    assert not control.service("redis-server").is_running
    assert not control.service("redis-server").is_enabled
    assert not control.file("/etc/redis/users.acl").exists
    assert control.check_output("ss --listening --tcp --no-header 'sport = 6379 or sport = 5555'") == ""

    assert changes(cluster.play("site.yml", *OWN_DAGS)) == 0
    # The host without a group leaves the inventory.
    cluster.change("hosts.yml", (TOP / "inventories/single_host/hosts.yml").read_text())
    cluster.play("site.yml")
    cluster.play("playbooks/verify.yml")
    assert {task["hostname"] for task in again.run_dag("parallel_dag")} == {cluster.address("control1")}
