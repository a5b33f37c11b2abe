"""The life of a set of packages, in this order: added, drifted, interrupted, rolled back, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import INVENTORY, SOURCES, TOP, Api, Cluster, changes, restarted, wait_until
from private_index import serve

CHANGE = "group_vars/all/zzz_change.yml"
LOCK = INVENTORY / "airflow-lock.txt"
AIRFLOW_HOSTS = ("control1", "worker1", "worker2")


def releases(cluster: Cluster) -> dict[str, str]:
    """Name of the release that each host's `current` points at."""
    return {
        host: cluster.host(host).check_output("readlink /opt/airflow/current").removeprefix("releases/")
        for host in AIRFLOW_HOSTS
    }


def states(api: Api, run: str) -> list[str]:
    """States of the tasks of a run."""
    return [task["state"] for task in api.tasks(run)]


def tries(api: Api, run: str) -> list[int]:
    """How often each task of a run was tried."""
    return [task["try_number"] for task in api.tasks(run)]


def sql(cluster: Cluster, query: str) -> str:
    """Ask the metadata database."""
    command = "runuser -u postgres -- psql --quiet --tuples-only --no-align --dbname airflow --command %s"
    return str(cluster.host("db1").check_output(command, query))


def want(cluster: Cluster, *requirements: str, **more: object) -> None:
    """Set the site's own requirements, and lock them."""
    cluster.change(CHANGE, json.dumps({"airflow_requirements": list(requirements), **more}))


def test_requirement_without_a_lock_is_refused(cluster):
    before = cluster.started()
    want(cluster, "boto3")
    output = cluster.play("site.yml", succeeds=False)
    for word in ("boto3", "airflow-3.3.2.txt", "playbooks/lock.yml", "found:", "allowed:", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    assert restarted(before, cluster.started()) == set()


def test_conflicting_requirement_is_explained(cluster):
    want(cluster, "boto3", "celery>=5.7")
    output = cluster.play("playbooks/lock.yml", succeeds=False)
    for word in ("celery>=5.7", "celery<5.7", "remedy:"):
        assert word in output, word
    assert "Traceback" not in output
    assert not LOCK.exists()


def test_added_package_arrives_everywhere(cluster, api):
    old = releases(cluster)
    want(cluster, "boto3")
    assert "+ boto3" in cluster.play("playbooks/lock.yml", "--check", "--diff")
    assert not LOCK.exists()
    output = cluster.play("playbooks/lock.yml", "--diff")
    assert "+ boto3" in output and "\n-" not in output.partition("+ boto3")[2].partition("PLAY RECAP")[0]
    pins = {line for line in LOCK.read_text().splitlines() if "==" in line}
    shipped = (TOP / "roles/airflow/files/locks/airflow-3.3.2.txt").read_text().splitlines()
    assert {line for line in shipped if "==" in line} <= pins, "what was proven stays"
    assert changes(cluster.play("playbooks/lock.yml")) == 0
    cluster.play("site.yml")
    new = releases(cluster)
    assert len(set(new.values())) == 1 and new != old
    worker = cluster.host("worker1")
    assert worker.check_output("ls /opt/airflow/current/lib/python3.*/site-packages/airflow/__pycache__/__init__.*.pyc")
    gate = "/opt/airflow/fingerprint.py /opt/airflow/current /etc/airflow/release /bin/true"
    took = worker.check_output(f"start=$(date +%s%N); python3 -I -S {gate} && echo $(($(date +%s%N) - start))")
    assert int(took) < 1e9, "what the gate adds to each start, in ns"
    tasks = {task["task_id"]: task for task in api.run_dag("imports")}
    hosts = {name: cluster.address(name.removeprefix("on_")) for name in tasks}
    assert {name: task["hostname"] for name, task in tasks.items()} == hosts


def test_drift_is_named_refused_and_healed(cluster):
    worker = cluster.host("worker2")
    packages = "/opt/airflow/current/lib/python3.*/site-packages"
    uv = worker.check_output("ls /opt/airflow/uv/uv-*")
    install = f"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt {uv} pip install --python /opt/airflow/current -q"
    worker.check_output(f"{install} emoji==2.14.0 boto3==1.40.0")
    worker.check_output(f"rm -rf {packages}/statsd-*.dist-info && echo '# edited' >> {packages}/celery/__init__.py")
    output = cluster.play("playbooks/verify.yml", succeeds=False)
    for word in ("worker2", "emoji 2.14.0", "-> 1.40.0", "statsd", "celery/__init__.py was edited", "remedy:"):
        assert word in output, word
    assert "packages on worker1" not in output

    # It runs on, and does not start again.
    assert worker.service("airflow-worker").is_running
    worker.run("systemctl restart airflow-worker")
    wait_until(lambda: state(worker) != "active", 30)
    assert state(worker) == "failed"
    status = worker.run("systemctl status --full airflow-worker").stdout
    for word in ("78", "worker is not started", "emoji 2.14.0", "site.yml"):
        assert word in status, word
    assert worker.check_output("systemctl show --value --property=NRestarts airflow-worker") == "0"
    assert worker.check_output("systemctl show --value --property=Result airflow-worker") == "exit-code"

    before = cluster.started()
    output = cluster.play("site.yml", "--diff")
    assert "added: emoji 2.14.0" in output
    assert restarted(before, cluster.started()) == {"worker2/airflow-worker"}
    cluster.play("playbooks/verify.yml")


def state(worker) -> str:
    """What systemd says of the worker."""
    return str(worker.check_output("systemctl show --value --property=ActiveState airflow-worker"))


def test_drifted_worker_that_still_runs_is_restarted(cluster):
    worker = cluster.host("worker2")
    worker.check_output("touch /opt/airflow/current/lib/python3.11/site-packages/stray.egg-info")
    before = cluster.started()
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"worker2/airflow-worker"}


def test_edit_without_a_trace_is_found_by_its_hash(cluster):
    """As large and as old as before: only a look at every byte tells, in verify.yml, and in site.yml on request."""
    worker = cluster.host("worker2")
    file = "/opt/airflow/current/lib/python3.11/site-packages/celery/__init__.py"
    worker.check_output(f"cp -p {file} /tmp/kept && sed -i 's/Distributed/distributed/' {file}")
    worker.check_output(f"! cmp -s {file} /tmp/kept && touch -r /tmp/kept {file} && rm /tmp/kept")
    before = cluster.started()
    assert changes(cluster.play("site.yml")) == 0
    output = cluster.play("playbooks/verify.yml", succeeds=False)
    for word in ("worker2", "celery/__init__.py was edited", "site.yml -e airflow_release_deep=true"):
        assert word in output, word
    cluster.play("site.yml", "-e", "airflow_release_deep=true")
    assert restarted(before, cluster.started()) == {"worker2/airflow-worker"}
    cluster.play("playbooks/verify.yml")


def test_interrupted_install_leaves_the_running_release(cluster, api, tmp_path):
    old, before = releases(cluster), cluster.started()
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("emoji<2.14\n")
    want(cluster, "boto3", "emoji", airflow_constraints=str(constraints))
    cluster.play("playbooks/lock.yml")
    assert "\nemoji==2.13." in LOCK.read_text()
    run = subprocess.Popen(
        ["ansible-playbook", *SOURCES, "site.yml"],
        cwd=TOP,
        env={**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    partial = "ls -d /opt/airflow/releases/.*.partial/lib/python3.*/site-packages/airflow"
    try:
        wait_until(lambda: cluster.host("worker1").run(partial).rc == 0, 120)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    # What it started on a host may go on there; on one of them, it dies as well: the installer, and who started it.
    died = "uv=$(pgrep --full ^/opt/airflow/uv/uv-) && kill -KILL $(ps -o ppid= -p $uv) $uv"
    cluster.host("worker1").check_output(died)
    assert cluster.host("worker1").run(partial.removesuffix("/lib/python3.*/site-packages/airflow")).rc == 0
    assert releases(cluster) == old
    assert restarted(before, cluster.started()) == set()
    api.run_dag("imports")
    cluster.play("site.yml")
    assert set(releases(cluster).values()).isdisjoint(old.values())
    left = cluster.host("worker1").check_output("ls -A /opt/airflow/releases /opt/airflow")
    assert ".partial" not in left


def test_limited_run_with_another_lock_is_refused(cluster):
    good, before = LOCK.read_text(), cluster.started()
    want(cluster, "boto3")
    cluster.play("playbooks/lock.yml")
    output = cluster.play("site.yml", "--limit", "worker1", succeeds=False)
    LOCK.write_text(good)
    want(cluster, "boto3", "emoji")
    for word in ("other packages than the hosts that this run leaves out", "control1 runs 3.3.2-", "remedy:"):
        assert word in output, word
    assert restarted(before, cluster.started()) == set()


def test_full_disk_leaves_the_running_release(cluster):
    """Preflight asks for room; what fills the disk afterwards is told, and the next run has what it needs."""
    worker, before = cluster.host("worker1"), cluster.started()
    worker.check_output("mount -t tmpfs -o size=60M tmpfs /opt/airflow/releases")
    try:
        output = cluster.play("site.yml", succeeds=False)
    finally:
        worker.check_output("umount /opt/airflow/releases")
    for word in ("free space for /opt/airflow/releases on worker1", "remedy:"):
        assert word in output, word
    assert changes(output) == 0

    good, old = LOCK.read_text(), releases(cluster)
    want(cluster, "boto3", "emoji", "titlecase")
    assert "+ titlecase" in cluster.play("playbooks/lock.yml", "--diff")
    worker.check_output("mkdir /opt/airflow/.cache.partial")
    worker.check_output("mount -t tmpfs -o size=60M tmpfs /opt/airflow/.cache.partial")
    try:
        output = cluster.play("site.yml", succeeds=False)
    finally:
        worker.check_output("umount /opt/airflow/.cache.partial && rmdir /opt/airflow/.cache.partial")
    assert "No space left on device" in output and "Airflow is left as it is" in output
    assert (releases(cluster), restarted(before, cluster.started())) == (old, set())
    # With room again, the same release is built.
    uv = (TOP / "roles/airflow/files/locks/uv.txt").read_text()
    release = {"name": "full", "root": "/opt/airflow", "lock": str(LOCK), "uv": uv}
    argv = ["ansible", *SOURCES, "worker1", "-m", "dataops.airflow.release", "-a", json.dumps(release)]
    subprocess.run(argv, cwd=TOP, capture_output=True, check=True)
    assert worker.check_output("ls -A /opt/airflow").count(".partial") == 0
    worker.check_output("rm -r /opt/airflow/releases/full")
    LOCK.write_text(good)
    want(cluster, "boto3", "emoji")


def test_rollback_is_all_or_none(cluster):
    before, old = cluster.started(), releases(cluster)
    worker = cluster.host("worker2")
    link = worker.check_output("readlink /opt/airflow/previous")
    worker.check_output("rm /opt/airflow/previous")
    try:
        output = cluster.play("playbooks/rollback.yml", succeeds=False)
        for word in ("No host was switched", "worker2", "no release at /opt/airflow/previous", "remedy:"):
            assert word in output, word
    finally:
        worker.check_output(f"ln -s {link} /opt/airflow/previous")
    output = cluster.play("playbooks/rollback.yml", "--limit", "worker1,control1", succeeds=False)
    assert "No host was switched" in output
    assert (releases(cluster), restarted(before, cluster.started())) == (old, set())


def test_rollback_refuses_a_newer_schema(cluster):
    before = cluster.started()
    known = sql(cluster, "SELECT version_num FROM alembic_version")
    sql(cluster, "UPDATE alembic_version SET version_num = 'fffffffffff0'")
    try:
        output = cluster.play("playbooks/rollback.yml", succeeds=False)
        for word in ("No host was switched", "fffffffffff0", known, "downgrade", "remedy:"):
            assert word in output, word
    finally:
        sql(cluster, f"UPDATE alembic_version SET version_num = '{known}'")  # noqa: S608  it was read from there
    assert restarted(before, cluster.started()) == set()


def test_rollback_drains_and_goes_back(cluster, api):
    bad = releases(cluster)
    link = cluster.host("worker1").check_output("readlink /opt/airflow/previous").removeprefix("releases/")
    checked = cluster.play("playbooks/rollback.yml", "--check", "--diff")
    assert changes(checked) > 0 and releases(cluster) == bad
    run = api.start_dag("long")
    wait_until(lambda: states(api, run) == ["running", "running"], 60)
    output = cluster.play("playbooks/rollback.yml")
    assert releases(cluster) == dict.fromkeys(AIRFLOW_HOSTS, link)
    wait_until(lambda: set(states(api, run)) <= {"success", "failed"}, 60)
    assert states(api, run) == ["success", "success"] and tries(api, run) == [1, 1]
    assert str(LOCK) in output, "what the user must put back"
    assert not cluster.host("worker1").file("/opt/airflow/previous").exists
    for host in AIRFLOW_HOSTS:
        has = cluster.host(host).run("ls -d /opt/airflow/current/lib/python3.*/site-packages/emoji")
        assert has.rc != 0
    assert "No host was switched" in cluster.play("playbooks/rollback.yml", succeeds=False)

    # The old lock back, as `git checkout` would do it: nothing is left to do.
    LOCK.write_text(cluster.host("control1").file("/opt/airflow/current/lock.txt").content_string)
    want(cluster, "boto3")
    assert changes(cluster.play("site.yml")) == 0
    cluster.play("playbooks/verify.yml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("--hash=sha256:0", "--hash=sha256:1", 1), ("by hand",)),
        (lambda text: text.partition("\ncelery==")[0] + "\ncelery==5.6.3\n", ("hash", "celery")),
    ],
    ids=["edited", "without a hash"],
)
def test_bad_lock_is_refused(cluster, change, words):
    good, before = LOCK.read_text(), cluster.started()
    changed = change(good)
    assert changed != good
    LOCK.write_text(changed)
    try:
        output = cluster.play("site.yml", succeeds=False)
    finally:
        LOCK.write_text(good)
    for word in (*words, "airflow-lock.txt", "playbooks/lock.yml", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    assert restarted(before, cluster.started()) == set()


def test_lock_for_another_python_is_refused(cluster):
    good, before = LOCK.read_text(), cluster.started()
    try:
        cluster.play("playbooks/lock.yml", "-e", "airflow_lock_python=3.12")
        output = cluster.play("site.yml", succeeds=False)
    finally:
        LOCK.write_text(good)
    for word in ("airflow-lock.txt", "3.12", "3.11", "playbooks/lock.yml", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    assert restarted(before, cluster.started()) == set()


def test_index_that_is_down_is_told(cluster):
    old, before = releases(cluster), cluster.started()
    good = LOCK.read_text()
    want(cluster, "boto3", "cowsay", airflow_index_url="https://robot:s3cr3t-token@127.0.0.1:9/simple")
    told = cluster.play("playbooks/lock.yml", "-vvv", succeeds=False)
    assert LOCK.read_text() == good
    want(cluster, "boto3", "cowsay")
    cluster.play("playbooks/lock.yml")
    want(cluster, "boto3", "cowsay", airflow_index_url="https://robot:s3cr3t-token@127.0.0.1:9/simple")
    output = cluster.play("site.yml", "-vvv", "--diff", succeeds=False)
    assert "s3cr3t-token" not in told + output
    assert "package index" in told and "127.0.0.1:9" in output
    assert "Airflow is left as it is" in output
    assert (releases(cluster), restarted(before, cluster.started())) == (old, set())
    LOCK.write_text(good)
    want(cluster, "boto3")
    assert changes(cluster.play("site.yml")) == 0


def test_package_without_a_wheel_is_built_once(cluster):
    """There is no wheel of docopt anywhere: one host builds it, and all of them get that one."""
    good = LOCK.read_text()
    want(cluster, "boto3", "docopt")
    output = cluster.play("playbooks/lock.yml", succeeds=False)
    for word in ("docopt", "airflow_build_packages", "remedy:"):
        assert word in output, word
    assert LOCK.read_text() == good
    want(cluster, "boto3", "docopt", airflow_build_packages=["docopt"])
    cluster.play("playbooks/lock.yml")
    (wheel,) = (INVENTORY / ".wheels").glob("docopt-*.whl")
    built = wheel.read_bytes()
    wheel.unlink()
    output = cluster.play("site.yml", succeeds=False)
    for word in ("docopt", "playbooks/lock.yml", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    wheel.write_bytes(built)
    cluster.play("site.yml")
    used = "/opt/airflow/current/bin/python -c 'import docopt; print(docopt.__version__)'"
    assert {cluster.host(host).check_output(used) for host in AIRFLOW_HOSTS} == {"0.6.2"}
    assert changes(cluster.play("playbooks/lock.yml")) == 0, "it is not built again"


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory) -> Path:
    """A folder for wheels, filled by the tests below."""
    return Path(tmp_path_factory.mktemp("wheels"))


def test_wheelhouse_needs_no_index(cluster, wheelhouse):
    """A worker whose network reaches the cluster only."""
    want(cluster, "boto3", airflow_wheelhouse=str(wheelhouse))
    output = cluster.play("site.yml", succeeds=False)
    for word in ("wheelhouse.yml", "a2wsgi", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    cluster.play("playbooks/wheelhouse.yml")
    assert changes(cluster.play("playbooks/wheelhouse.yml")) == 0
    missing = next(wheelhouse.glob("boto3-*.whl"))
    kept = missing.read_bytes()
    missing.unlink()
    output = cluster.play("site.yml", succeeds=False)
    assert missing.name.partition("-")[0] in output and changes(output) == 0
    missing.write_bytes(kept)

    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("        worker2:\n", "        worker2:\n        worker3:\n"))
    cluster.read_inventory()
    cluster.play("lab/create.yml")
    worker = cluster.host("worker3")
    # What comes from the distribution's mirror; then there is no way out any more.
    worker.check_output("apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv")
    worker.check_output("ip route del default")
    before = cluster.started()
    want(cluster, "boto3")
    output = cluster.play("site.yml", "--limit", "worker3", succeeds=False)
    assert "pip install failed" in output, "there is no way to an index"
    want(cluster, "boto3", airflow_wheelhouse=str(wheelhouse))
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"worker3/airflow-worker", "control1/airflow-scheduler"}
    cluster.play("playbooks/verify.yml")


def test_private_index_with_a_password_and_an_authority(cluster, wheelhouse, tmp_path):
    """The worker without a way out reaches this one; nothing shows the password."""
    want(cluster, "boto3", "cowsay", airflow_wheelhouse=str(wheelhouse))
    cluster.play("playbooks/lock.yml")
    cluster.play("playbooks/wheelhouse.yml")
    address = cluster.variable("lab_network") + ".1"
    with serve(wheelhouse, address, tmp_path, "robot", "s3cr3t-token") as (place, authority, served):
        trusted = [*map(str, Path("/usr/local/share/ca-certificates").glob("*.crt")), str(authority)]
        trust = ("-e", json.dumps({"cluster_ca_certificates": trusted}))
        want(cluster, "boto3", "cowsay", airflow_index_url=f"https://robot:wrong@{place}/simple")
        told = cluster.play("site.yml", *trust, "-vvv", succeeds=False)
        assert "401 Unauthorized" in told and "robot:wrong" not in told
        assert served == []
        want(cluster, "boto3", "cowsay", airflow_index_url=f"https://robot:s3cr3t-token@{place}/simple")
        output = cluster.play("site.yml", *trust, "--diff", "-vvv")
        assert any("cowsay" in path for path in served) and len(served) > 300
        assert "s3cr3t-token" not in output
    held = "grep -rl s3cr3t-token /etc /opt/airflow /var/lib/airflow /var/log /run /proc/[0-9]*/environ 2>/dev/null"
    assert cluster.host("worker3").run(held).stdout == ""
    cluster.play("playbooks/verify.yml")
