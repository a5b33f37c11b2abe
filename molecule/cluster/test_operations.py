"""What an operator does to a running cluster, in this order: look, change, grow, reboot, break."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import (
    INVENTORY,
    TOP,
    Api,
    Cluster,
    basic,
    booted,
    changes,
    leaked,
    python_as,
    restarted,
    status_of,
    wait_until,
)

CHANGE = "group_vars/all/zzz_change.yml"


def test_check_mode_finds_nothing(cluster):
    before = cluster.started()
    assert changes(cluster.play("site.yml", "--check", "--diff")) == 0
    assert restarted(before, cluster.started()) == set()


WATCH = """
import pathlib, signal, sys, time
seen = set()
def end(*_):
    sys.stdout.buffer.write(b"\\n".join(sorted(seen)))
    sys.exit()
signal.signal(signal.SIGTERM, end)
while True:
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            seen.add(path.read_bytes())
        except OSError:
            pass
    time.sleep(0.1)
"""
"""Notes the command line of every process, until it is told to end."""


@contextmanager
def process_lists(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Watch what `ps` would show while something runs, on every host and here; afterwards a file has all of it."""
    found = folder / "processes"
    options = "--quiet --unit=watch --property=StandardOutput=truncate:/root/processes --property=DynamicUser=no"
    for name in cluster.variables:
        cluster.host(name).check_output(f"systemd-run {options} /usr/bin/python3 -c %s", WATCH)
    with found.open("wb") as file, subprocess.Popen([sys.executable, "-c", WATCH], stdout=file) as here:
        try:
            yield found
        finally:
            here.terminate()
            here.wait()
    with found.open("ab") as file:
        for name in cluster.variables:
            host = cluster.host(name)
            host.check_output("systemctl stop watch")
            file.write(host.run("cat /root/processes; rm /root/processes").stdout_bytes)


def left_behind(cluster: Cluster, folder: Path) -> str:
    """What is in the temporary files of the hosts, and in the facts and logs that a run left on the control node."""
    command = (
        "find /root/.ansible /tmp /var/tmp /run /dev/shm -xdev -type f -size -1000k ! -path '/run/systemd/*'"
        " ! -path '/run/udev/*' -exec cat {} + 2>/dev/null"
    )
    texts = [cluster.host(name).run(command).stdout_bytes for name in cluster.variables]
    texts += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return b"\n".join(texts).decode(errors="replace")


def test_changed_secret_restarts_its_readers_and_stays_secret(cluster, tmp_path):
    """In no output, at any verbosity, no process list, no fact cache, no log and no temporary file."""
    before = cluster.started()
    new = "another p@s:s/w%o#r'd\" $HOME, x?y&z=7"
    cluster.change(CHANGE, f"---\nairflow_flower_password: {new}\n")
    told = cluster.play("site.yml", "--check", "--diff")
    assert changes(told) > 0
    assert restarted(before, cluster.started()) == set()
    keeps = {
        "ANSIBLE_CACHE_PLUGIN": "jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path / "facts"),
        "ANSIBLE_GATHERING": "smart",
        "ANSIBLE_LOG_PATH": str(tmp_path / "ansible.log"),
    }
    with process_lists(cluster, tmp_path) as processes:
        output = cluster.play("site.yml", "--diff", "-vvv", environment=keeps)
        output += cluster.play("playbooks/verify.yml", "--diff", "-vvv", environment=keeps)
    assert restarted(before, cluster.started()) == {"control1/airflow-flower"}
    assert leaked(cluster.secrets, output) == []
    listed = processes.read_bytes()
    assert b"ansible-playbook" in listed and b"systemctl" in listed, "the watch has seen the run, here and there"
    assert "PLAY RECAP" in (tmp_path / "ansible.log").read_text()
    assert leaked(cluster.secrets, left_behind(cluster, tmp_path)) == []
    url = f"http://{cluster.address('control1')}:5555/workers"
    assert status_of(url, basic("admin", new)) == 200
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml")
    assert status_of(url, basic("admin", new)) == 401


@pytest.mark.long
def test_failures_keep_secrets(cluster):
    """A task that fails with secrets in its hands names none: not in Ansible's output, nor in PostgreSQL's log."""
    new = "another p@s:s/w%o#r'd\" $HOME x?y&z=8"
    secrets = {**cluster.secrets, "new": new}
    control, db = cluster.host("control1"), cluster.host("db1")
    control.check_output("mv /etc/airflow/flower.env /etc/airflow/flower.own && mkdir /etc/airflow/flower.env")
    try:
        output = cluster.play("playbooks/airflow.yml", "--diff", "-vvv", succeeds=False)
    finally:
        control.check_output("rmdir /etc/airflow/flower.env && mv /etc/airflow/flower.own /etc/airflow/flower.env")
    assert "Write the components' secrets" in output
    assert leaked(secrets, output) == []
    ask = "runuser -u postgres -- psql --command %s"
    cluster.change(CHANGE, f"---\ncluster_database_password: {new}\n")
    db.check_output(ask, "ALTER SYSTEM SET default_transaction_read_only = on")
    db.check_output(ask, "SELECT pg_reload_conf()")
    try:
        output = cluster.play("playbooks/postgresql.yml", "--diff", "-vvv", succeeds=False)
    finally:
        cluster.change(CHANGE, "---\n")
        # Else this statement would be refused as well.
        db.check_output("PGOPTIONS='-c default_transaction_read_only=off' " + ask, "ALTER SYSTEM RESET ALL")
        db.check_output(ask, "SELECT pg_reload_conf()")
    assert "Create each database's own role" in output
    logs = db.run("cat /var/log/postgresql/*; journalctl --no-pager").stdout_bytes.decode(errors="replace")
    assert "read-only transaction" in logs, "it failed where it has the password in its hands"
    assert leaked(secrets, output + logs) == []
    # A scheduler that could not write meanwhile has ended, and is started again: this waits for it.
    cluster.play("playbooks/airflow.yml")


@pytest.mark.long
def test_check_mode_does_not_ask_what_is_not_there_yet(cluster):
    """Another password or port: a check says so, and asks nothing that is not there yet."""
    before = cluster.started()
    cluster.change(CHANGE, "---\ncluster_database_password: another-password-1\ncluster_flower_port: 5556\n")
    assert changes(cluster.play("site.yml", "--check", "--diff")) > 0
    cluster.change(CHANGE, "---\ncluster_database_port: 5433\n")
    assert changes(cluster.play("site.yml", "--check", "--diff")) > 0
    cluster.change(CHANGE, "---\n")
    assert restarted(before, cluster.started()) == set()


def test_changed_concurrency_restarts_that_worker_and_the_scheduler(cluster):
    before = cluster.started()
    cluster.change("host_vars/worker1.yml", "---\nairflow_worker_concurrency: 3\n")
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"worker1/airflow-worker", "control1/airflow-scheduler"}
    banner = cluster.host("worker1").check_output(
        "journalctl --unit airflow-worker --no-pager | grep concurrency: | tail -1"
    )
    assert "concurrency: 3" in banner
    assert cluster.host("control1").check_output("airflow config get-value core parallelism") == "14"


def test_postgresql_reloads_what_needs_no_restart(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "---\npostgresql_parameters: {log_min_duration_statement: 7s}\n")
    cluster.play("site.yml", "--limit", "db1")
    assert restarted(before, cluster.started()) == set()
    ask = "runuser -u postgres -- psql --tuples-only --no-align --command 'SHOW log_min_duration_statement'"
    assert cluster.host("db1").check_output(ask) == "7s"


def test_postgresql_restarts_what_needs_it(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "---\npostgresql_parameters: {max_locks_per_transaction: 80}\n")
    cluster.play("site.yml", "--limit", "db1")
    # These end when they miss the database, and systemd starts them again: that is not the playbook's doing.
    fragile = {f"control1/airflow-{name}" for name in ("scheduler", "dag-processor", "triggerer")}
    wait_until(lambda: fragile <= {f"{host}/{unit.removesuffix('.service')}" for host, unit in cluster.started()}, 60)
    assert restarted(before, cluster.started()) - fragile == {"db1/postgresql@15-main"}
    ask = "runuser -u postgres -- psql --tuples-only --no-align --command 'SHOW max_locks_per_transaction'"
    assert cluster.host("db1").check_output(ask) == "80"


def test_postgresql_refuses_a_wrong_setting_and_runs_on(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "---\npostgresql_parameters: {wrok_mem: 8MB}\n")
    output = cluster.play("site.yml", succeeds=False)
    for word in ("wrok_mem", "allowed:", "remedy:", "Airflow is left as it is"):
        assert word in output
    assert restarted(before, cluster.started()) == set()
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml")


def test_redis_restarts_alone(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "---\nredis_config: {tcp-keepalive: 90}\n")
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"db1/redis-server"}
    cluster.change(CHANGE, "---\n")
    cluster.play("playbooks/redis.yml")


SEND = """
from types import SimpleNamespace
from airflow.providers.celery.executors import celery_executor_utils as executor
def broken(*_, **__):
    raise ValueError("a sending")
app = executor._get_celery_app_for_workload(None)
app.amqp.send_task_message = broken
kind = type(app.tasks["execute_workload"])
def ends():
    workload = SimpleNamespace(model_dump_json=lambda: "{}")
    return repr(executor.send_workload_to_executor(("key", workload, "default", None))[2].exception)
found = [ends()]
kind.apply_async = kind.apply_async.__wrapped__
print(*found, ends(), sep="\\n")
"""
"""Has Airflow's executor send a task with the scheduler's settings, with `scheduler_send` and without."""


def test_whatever_a_sending_ends_in_is_tried_again(cluster):
    said = cluster.host("control1").check_output(python_as("scheduler"), SEND).splitlines()
    # Airflow tries again the former and fails the task for the latter.
    assert said[-2:] == ["AirflowTaskTimeout(\"not sent: ValueError('a sending')\")", "ValueError('a sending')"], said


BROKEN_OFF = """
import json, logging, random
from types import SimpleNamespace
from airflow.providers.celery.executors import celery_executor_utils as executor
logging.disable(logging.CRITICAL)
app = executor._get_celery_app_for_workload(None)
def ends(seconds):
    executor.OPERATION_TIMEOUT = seconds
    workload = SimpleNamespace(model_dump_json=lambda: "{}")
    return type(executor.send_workload_to_executor(("key", workload, "broken_off", None))[2]).__name__
first = ends(20)
then = [ends(random.uniform(0.0002, 0.008)) for _ in range(6000)]
last = [ends(20) for _ in range(3)]
with app.connection_for_write() as connection:
    connection.default_channel.client.delete("broken_off")
print(json.dumps([first, then.count("ExceptionWithTraceback"), last]))
"""
"""Has Airflow's executor send tasks, breaks them off at every moment, and at last does not; nobody has that queue."""


def test_sendings_that_are_broken_off_stop_no_later_one(cluster):
    """With Celery's pool of connections the last ones were not sent, in three of five tries with half as many."""
    said = cluster.host("control1").check_output(f"{python_as('scheduler')} 2> /dev/null", BROKEN_OFF).splitlines()
    first, broken_off, last = json.loads(said[-1])
    assert [first, *last] == ["AsyncResult"] * 4
    assert broken_off > 30, "too late to prove anything"


def test_refused_inventory_changes_nothing(cluster):
    before = cluster.started()
    cluster.change(CHANGE, "---\nairflow_dasg: /tmp\nairflow_executor: SequentialExecutor\ncluster_redis_port: 70000\n")
    output = cluster.play("site.yml", succeeds=False)
    for word in ("airflow_dasg", "airflow_dags", "SequentialExecutor", "70000", "found:", "allowed:", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    assert restarted(before, cluster.started()) == set()
    cluster.change(CHANGE, "---\n")


def test_taken_port_is_refused(cluster):
    control = cluster.host("control1")
    control.check_output("systemctl stop airflow-flower")
    control.check_output("systemd-run --unit=squatter python3 -m http.server 5555")
    try:
        output = cluster.play("site.yml", succeeds=False)
        for word in ("5555", "squatter", "control1", "remedy:"):
            assert word in output, word
        assert changes(output) == 0
    finally:
        control.check_output("systemctl stop squatter")
    cluster.play("site.yml")
    assert control.service("airflow-flower").is_running


def test_foreign_system_is_refused(cluster):
    worker = cluster.host("worker2")
    worker.check_output(
        "sed --in-place=.own 's/^VERSION_ID=.*/VERSION_ID=\"11\"/; s/12 (bookworm)/11/' /usr/lib/os-release"
    )
    try:
        output = cluster.play("site.yml", succeeds=False)
    finally:
        worker.check_output("mv /usr/lib/os-release.own /usr/lib/os-release")
    for word in ("operating system of worker2", "Debian GNU/Linux 11", "Debian 12", "remedy:"):
        assert word in output, word
    assert changes(output) == 0


def test_clock_that_is_off_is_refused(cluster):
    """The hosts of a lab share one clock, so the probe on one of them is told another time."""
    worker = cluster.host("worker2")
    worker.check_output("apt-get install -y -qq --no-install-recommends faketime")
    late = "printf '#!/bin/sh\\nexec faketime -f +60s /usr/bin/python3 \"$@\"\\n' > /usr/local/bin/late"
    worker.check_output(f"{late} && chmod 0755 /usr/local/bin/late")
    cluster.change("host_vars/worker2.yml", "---\nansible_python_interpreter: /usr/local/bin/late\n")
    output = cluster.play("site.yml", succeeds=False)
    cluster.change("host_vars/worker2.yml", "---\n")
    for word in ("clocks", "worker2 is 60", "ahead of the controller", "chrony", "remedy:"):
        assert word in output, word
    assert changes(output) == 0


@pytest.mark.long
def test_added_worker_restarts_no_other(cluster):
    before = cluster.started()
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("        worker2:\n", "        worker2:\n        worker3:\n"))
    cluster.read_inventory()
    assert cluster.members("workers") == ["worker1", "worker2", "worker3"]
    cluster.play("lab/create.yml")
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"worker3/airflow-worker", "control1/airflow-scheduler"}
    cluster.play("playbooks/verify.yml")


@pytest.mark.long
def test_killed_worker_comes_back(cluster):
    worker = cluster.host("worker2")
    before = worker.check_output("systemctl show --value --property=MainPID airflow-worker")
    worker.check_output("systemctl kill --signal=KILL airflow-worker")
    wait_until(
        lambda: worker.check_output("systemctl show --value --property=MainPID airflow-worker") not in ("0", before), 60
    )
    assert worker.service("airflow-worker-check.timer").is_running
    cluster.play("playbooks/verify.yml")


def test_stopped_component_is_named_and_mended(cluster):
    cluster.host("control1").check_output("systemctl stop airflow-triggerer")
    cluster.host("db1").check_output("systemctl stop redis-server")
    output = cluster.play("playbooks/verify.yml", succeeds=False)
    for word in ("control1", "airflow-triggerer.service", "Redis on db1", "Connection refused", "remedy:"):
        assert word in output, word
    cluster.play("site.yml")
    cluster.play("playbooks/verify.yml")


@pytest.mark.long
def test_worker_of_no_host_is_named(cluster):
    """Celery counts it, the inventory does not: it would take tasks with who knows which packages."""
    worker = cluster.host("worker2")
    airflow = "/opt/airflow/current/bin/airflow celery worker -H stray --queues nobodys --skip-serve-logs"
    properties = "--property=User=airflow --property=EnvironmentFile=/etc/airflow/worker.env"
    worker.check_output(f"systemd-run --unit=stray {properties} {airflow}")
    try:
        wait_until(lambda: "celery@stray ready" in worker.check_output("journalctl --unit=stray --no-pager"), 60)
        output = cluster.play("playbooks/verify.yml", succeeds=False)
    finally:
        worker.check_output("systemctl stop stray")
    for word in ("not in the group workers", "stray", "stop it there"):
        assert word in output, word


@pytest.mark.long
def test_rebooted_hosts_come_back_by_themselves(cluster, web_url):
    names = ("db1", "control1", "worker1")
    boots = {name: cluster.host(name).check_output("stat --format=%Y /proc/1") for name in names}
    for name in names:
        cluster.host(name).run("systemd-run --on-active=1 systemctl reboot")
    for name in names:
        wait_until(lambda name=name: booted(cluster, name) not in ("", boots[name]), 90)
    wait_until(lambda: answers(f"{web_url}/api/v2/monitor/health"), 90)
    api = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    assert len(api.run_dag("parallel_dag", 180)) == 4
    cluster.play("playbooks/verify.yml")
    assert changes(cluster.play("site.yml")) == 0


def answers(url: str) -> bool:
    """Whether a URL answers well."""
    try:
        return status_of(url) == 200
    except OSError:
        time.sleep(0.5)
        return False


def test_installed_collection_finds_nothing(cluster, tmp_path):
    """The same, as `ansible-playbook dataops.airflow.site` of the built tarball, without the checkout's ansible.cfg."""
    subprocess.run(["ansible-galaxy", "collection", "build", "--output-path", tmp_path], cwd=TOP, check=True)
    tarball = next(tmp_path.glob("*.tar.gz"))
    install = ["ansible-galaxy", "collection", "install", "--force", "--offline", "-p", tmp_path / "installed", tarball]
    subprocess.run(install, cwd=tmp_path, check=True)
    (tmp_path / "ansible.cfg").touch()
    environment = {
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "installed"),
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
    }
    # The lab finds these beside ansible.cfg.
    lab = ["-e", json.dumps({"lab_dir": str(INVENTORY.parent), "airflow_dags": str(TOP / "dags")})]
    output = cluster.play("dataops.airflow.site", "-vv", *lab, environment=environment)
    assert f"{tmp_path}/installed/ansible_collections/dataops/airflow/roles/airflow" in output
    assert changes(output) == 0
    assert "packages in" in cluster.play("dataops.airflow.lock", "--check", *lab, environment=environment)
    assert not (INVENTORY / "airflow-lock.txt").exists()
