"""A worker that leaves, in this order: refused, put back, taken out by force, taken out, taken out again, forgotten.

Runs after test_added.py, which adds worker3, and leaves the cluster without it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from urllib.parse import quote

import pytest
from conftest import INVENTORY, OWN_DAGS, SOURCES, TOP, booted, changes, podman, python_as, restarted, wait_until

REMOVE = "playbooks/worker_remove.yml"
DAG = "on_worker3"
SECRETS = ("cluster_results_password", "cluster_redis_password", "airflow_api_secret_key")
CONNECT = """
import psycopg2
psycopg2.connect({url!r}, connect_timeout=5)
print('connected')
"""
# What the worker consumes from, as it says itself.
QUEUES = """
import json, os
from celery import Celery
app = Celery(broker=os.environ['AIRFLOW__CELERY__BROKER_URL'])
answer = app.control.inspect(destination=['celery@worker3'], timeout=5, limit=1).active_queues() or {}
print(json.dumps(sorted(queue['name'] for queue in answer.get('celery@worker3', []))))
"""


@pytest.fixture(scope="module", autouse=True)
def worker3(cluster, own_dags):
    """Have the worker that leaves."""
    assert "worker3" in cluster.members("workers"), "test_added.py adds it"


def start(api, seconds: int) -> str:
    """Start a task of so many seconds on worker3, and wait until it runs; the path of its run."""
    wait_until(lambda: api.ask("PATCH", f"/api/v2/dags/{DAG}", {"is_paused": False})[0] == 200, 120)
    body = {"logical_date": None, "conf": {"seconds": seconds}}
    status, run = api.ask("POST", f"/api/v2/dags/{DAG}/dagRuns", body)
    assert status == 200, run
    path = f"/api/v2/dags/{DAG}/dagRuns/{quote(run['dag_run_id'], safe='')}"
    wait_until(lambda: state_of(api, path) == "running", 60)
    return path


def state_of(api, run: str) -> str:
    """State of the only task of a run."""
    return str(api.tasks(run)[0]["state"])


def finish(api, run: str, timeout: float) -> dict[str, object]:
    """Wait for the end of the only task of a run; the task."""
    wait_until(lambda: api.ask("GET", run)[1]["state"] in ("success", "failed"), timeout)
    (task,) = api.tasks(run)
    return dict(task)


def log_of(api, run: str) -> str:
    """What the API shows of the log of a run's first try."""
    status, log = api.ask("GET", f"{run}/taskInstances/rest/logs/1")
    assert status == 200, log
    return json.dumps(log)


def queues(cluster) -> list[str]:
    """Queues that worker3 consumes from; none when it does not answer."""
    found = json.loads(cluster.host("control1").check_output(python_as("cli"), QUEUES).splitlines()[-1])
    return [str(name) for name in found]


def connect(cluster, host: str) -> str:
    """Try to connect from a host to the database of the results; what was said."""
    password = quote(cluster.secrets["cluster_results_password"], safe="")
    url = f"postgresql://airflow_results:{password}@{cluster.address('db1')}/airflow_results"
    done = cluster.host(host).run("/opt/airflow/current/bin/python -c %s", CONNECT.format(url=url))
    return str(done.stdout + done.stderr)


def shut_out(cluster) -> None:
    """Require that worker3 reaches neither database nor broker, and that PostgreSQL would refuse it besides."""
    address, database = cluster.address("db1"), cluster.host("db1")
    knock = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    for port in ("5432", "6379"):
        assert "timed out" in cluster.host("worker3").run("python3 -c %s %s %s", knock, address, port).stderr
    database.check_output("systemctl stop dataops-airflow-firewall")
    try:
        assert "no pg_hba.conf entry" in connect(cluster, "worker3")
    finally:
        database.check_output("systemctl start dataops-airflow-firewall")


def refused(cluster, *arguments: str) -> str:
    """Run the playbook, which shall refuse and change nothing; its output."""
    before = cluster.started()
    output = cluster.play(REMOVE, *arguments, succeeds=False)
    for word in ("found:", "allowed:", "remedy:", "nothing was changed"):
        assert word in output, word
    assert changes(output) == 0
    assert restarted(before, cluster.started()) == set()
    assert queues(cluster) == ["default", "worker3"]
    return str(output)


def test_unknown_worker_is_refused(cluster):
    for name in ("worker9", "control1", "all"):
        assert f'found:   "{name}"' in refused(cluster, "-e", f"worker={name}", "-e", "confirm=true")
    refused(cluster, "-e", "confirm=true")


def test_missing_confirmation_is_refused_and_told_what_would_happen(cluster):
    output = refused(cluster, "-e", "worker=worker3")
    for word in ("confirm=true", "takes no new tasks", "copied to control1"):
        assert word in output, word


def test_last_worker_of_a_queue_is_refused(cluster):
    queues_of = "host_vars/worker3/queues.yml"
    cluster.change(queues_of, "---\nairflow_worker_queues: [default, large]\n")
    try:
        assert "large" in refused(cluster, "-e", "worker=worker3", "-e", "confirm=true")
    finally:
        cluster.change(queues_of, "---\n")


def test_missed_deadline_puts_the_worker_back(cluster, api):
    before = cluster.started()
    run = start(api, 120)
    arguments = ("-e", "worker=worker3", "-e", "confirm=true", "-e", "deadline=5")
    output = cluster.play(REMOVE, *arguments, succeeds=False)
    for word in ("was not taken out", f"{DAG}.rest", "in service again", "remedy:"):
        assert word in output, word
    # Neither was the database told, nor the worker stopped, and the task goes on.
    assert state_of(api, run) == "running"
    assert queues(cluster) == ["default", "worker3"]
    assert restarted(before, cluster.started()) == set()
    assert "connected" in connect(cluster, "worker3")
    task = finish(api, run, 180)
    assert (task["state"], task["try_number"]) == ("success", 1)
    again = finish(api, start(api, 1), 60)
    assert (again["state"], again["hostname"]) == ("success", cluster.address("worker3"))


def test_a_drain_that_was_broken_off_takes_no_queue_of_a_worker_that_was_put_back(cluster, api):
    run = start(api, 150)
    argv = ["ansible-playbook", *SOURCES, REMOVE, "-e", "worker=worker3", "-e", "confirm=true"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")}
    removal = subprocess.Popen(argv, cwd=TOP, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: queues(cluster) == [], 90)
    finally:
        os.killpg(removal.pid, signal.SIGKILL)
        removal.wait()
    drains = "pgrep --full --count '[A]nsiballZ_worker_drain' || true"
    assert cluster.host("worker3").check_output(drains) != "0", "it waits on the host for the task"
    arguments = ("-e", "worker=worker3", "-e", "confirm=true", "-e", "deadline=2")
    assert "in service again" in cluster.play(REMOVE, *arguments, succeeds=False)
    wait_until(lambda: cluster.host("worker3").check_output(drains) == "0", 30)
    assert queues(cluster) == ["default", "worker3"]
    assert finish(api, run, 180)["try_number"] == 1


def test_site_restarts_a_worker_that_was_put_back(cluster):
    """What a drained worker was told to consume from is forgotten with its connection: a restart is due."""
    before = cluster.started()
    cluster.play("site.yml", *OWN_DAGS)
    assert restarted(before, cluster.started()) == {"worker3/airflow-worker"}


def test_forced_removal_ends_the_task_and_can_be_undone(cluster, api):
    run = start(api, 600)
    cluster.play(REMOVE, "-e", "worker=worker3", "-e", "confirm=true", "-e", "mode=forced")
    assert finish(api, run, 30)["state"] == "failed", "told, not found out by its missing heartbeat"
    assert not cluster.host("worker3").service("airflow-worker").is_running
    before = cluster.started()
    cluster.play("site.yml", *OWN_DAGS)
    assert restarted(before, cluster.started()) == {"worker3/airflow-worker"}
    assert queues(cluster) == ["default", "worker3"]


def test_dead_worker_is_removed_without_it(cluster):
    """As preflight advises: what it was admitted to is closed, and open again when it is to stay after all."""
    everybody_else = ("--limit", "all:!worker3")
    podman(cluster, "worker3", "kill")
    try:
        cluster.play(REMOVE, "-e", "worker=worker3", "-e", "confirm=true", "-e", "mode=forced", *everybody_else)
    finally:
        podman(cluster, "worker3", "start")
    wait_until(lambda: booted(cluster, "worker3") != "", 90)
    shut_out(cluster)
    cluster.play("site.yml", *OWN_DAGS)
    assert "connected" in connect(cluster, "worker3")
    wait_until(lambda: queues(cluster) == ["default", "worker3"], 90)


def test_removed_worker_finishes_its_task_and_leaves(cluster, api):
    old = start(api, 1)
    finish(api, old, 60)
    run = start(api, 60)
    before = cluster.started()
    argv = ["ansible-playbook", *SOURCES, REMOVE, "-e", "worker=worker3", "-e", "confirm=true"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    removal = subprocess.Popen(
        argv, cwd=TOP, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until(lambda: queues(cluster) == [], 90)
        # What is for any worker is done by the others meanwhile.
        hosts = {task["hostname"] for task in api.run_dag("anywhere")}
        assert hosts and cluster.address("worker3") not in hosts
        output = removal.communicate(timeout=240)[0]
    finally:
        removal.kill()
    assert removal.returncode == 0, output[-6000:]
    assert re.search(r"hosts\.yml:\d+:\s+worker3:", output), "it names the line to delete"

    task = finish(api, run, 10)
    assert (task["state"], task["try_number"]) == ("success", 1)
    assert restarted(before, cluster.started()) == set()

    worker = cluster.host("worker3")
    files = "find /etc/systemd/system /etc/airflow -name '*worker*' ! -path '*/python/*'; ls /etc/airflow/*.env"
    assert worker.run(files).stdout == ""
    assert not worker.service("airflow-worker").is_running
    assert worker.check_output("pgrep --uid airflow --count || true") == "0"
    held = worker.run("cat /etc/airflow/* /etc/airflow/*/* /proc/[0-9]*/environ 2>/dev/null").stdout_bytes
    for name in SECRETS:
        assert cluster.secrets[name].encode() not in held, name
        assert quote(cluster.secrets[name], safe="").encode() not in held, name

    shut_out(cluster)
    assert "connected" in connect(cluster, "control1")
    address = cluster.address("worker3")
    sql = f"SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{address}'"  # noqa: S608
    psql = "runuser -u postgres -- psql --tuples-only --no-align --command %s"
    assert cluster.host("db1").check_output(psql, sql) == "0"
    connections = f"ss --no-header --tcp state established 'dst {address} and sport = :6379'"
    assert cluster.host("db1").check_output(connections) == ""

    # Nobody serves the logs on worker3 any more: the API reads its own copy.
    assert worker.run("ss --no-header --listening --tcp 'sport = :8793'").stdout == ""
    for path in (old, run):
        log = log_of(api, path)
        assert "rested on worker3" in log
        assert f"{address}:8793" not in log
    assert cluster.host("control1").run("find /var/lib/airflow/logs ! -user airflow").stdout == ""
    for name in ("worker3", "control1"):
        assert cluster.host(name).run("find /var/tmp /tmp /var/lib/airflow -name 'logs*.tar.gz'").stdout == ""


def test_second_removal_is_harmless(cluster):
    before = cluster.started()
    output = cluster.play(REMOVE, "-e", "worker=worker3", "-e", "confirm=true")
    assert changes(output) == 0
    # It is in the inventory still: no stand-in for another one, and not to be admitted again.
    output = cluster.play(REMOVE, "-e", "worker=worker2", "-e", "confirm=true", succeeds=False)
    assert "no airflow-worker.service on worker3" in output and "remedy:" in output
    assert changes(output) == 0
    assert restarted(before, cluster.started()) == set()


def test_deleted_line_restarts_the_scheduler_only(cluster):
    before = cluster.started()
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(re.sub(r"(?m)^ +worker3:\n", "", hosts.read_text()))
    cluster.read_inventory()
    assert cluster.members("workers") == ["worker1", "worker2"]
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"control1/airflow-scheduler"}
    cluster.play("playbooks/verify.yml")


def test_last_worker_is_refused(cluster):
    """As it would be asked for with the other one gone from the inventory already."""
    hosts = INVENTORY / "hosts.yml"
    kept = hosts.read_text()
    hosts.write_text(re.sub(r"(?m)^ +worker2:\n", "", kept))
    try:
        output = cluster.play(REMOVE, "-e", "worker=worker1", "-e", "confirm=true", succeeds=False)
    finally:
        hosts.write_text(kept)
        cluster.read_inventory()
    for word in ("worker1 is needed", "no other worker in the cluster", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
