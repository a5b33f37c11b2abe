"""PostgreSQL, Redis, the API and Flower as they run: what they let in, and what they refuse."""

from __future__ import annotations

import os
import urllib.parse

import pytest
from conftest import Api, basic, status_of

CONNECT = """
import os, psycopg2
connection = psycopg2.connect(os.environ['URL'], connect_timeout=5)
print('connected')
"""


def connect(cluster, host: str, database: str, user: str, password: str) -> str:
    """Try to connect to PostgreSQL from a host; return what was said."""
    address = cluster.address(cluster.members("postgresql")[0])
    url = f"postgresql://{user}:{urllib.parse.quote(password, safe='')}@{address}/{database}"
    code = CONNECT.replace("os.environ['URL']", repr(url))
    done = cluster.host(host).run("/opt/airflow/current/bin/python -c %s", code)
    return done.stdout + done.stderr


def sql(cluster, query: str) -> str:
    """Ask the running PostgreSQL."""
    host = cluster.host(cluster.members("postgresql")[0])
    return host.check_output("runuser -u postgres -- psql --tuples-only --no-align --command %s", query)


def memory(cluster, group: str) -> int:
    """MB of memory that the roles count with on the first host of a group: in steps of 256."""
    host = cluster.host(cluster.members(group)[0])
    amounts = [1024 * int(host.check_output("grep MemTotal: /proc/meminfo").split()[1])]
    limits = host.run("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes").stdout.split()
    return min(amounts + [int(limit) for limit in limits if limit.isdigit()]) // 2**20 // 256 * 256


def redis(cluster, user: str, password: str, *command: str) -> str:
    """Ask the running Redis as a user."""
    name = cluster.members("redis")[0]
    argv = " ".join(command)
    tls = "--tls --cacert /etc/redis/airflow-ca.pem " if cluster.tls else ""
    line = f"REDISCLI_AUTH=%s redis-cli {tls}-h {cluster.address(name)} --user {user} --no-auth-warning {argv} 2>&1"
    return cluster.host(name).run(line, password).stdout


@pytest.fixture
def postgresql(cluster):
    """Leave out a test where the database is a file."""
    if not cluster.members("postgresql"):
        pytest.skip("this scenario has no database server")


@pytest.fixture
def celery(cluster):
    """Only where there is a broker."""
    if not cluster.members("redis"):
        pytest.skip("this scenario has no broker")


def test_login(cluster, web_url):
    good = cluster.secrets["airflow_admin_password"]
    Api(web_url, "admin", good)
    for password in ("admin", good + "x", ""):
        with pytest.raises(AssertionError, match=r"^40[01] "):
            Api(web_url, "admin", password)
    assert status_of(f"{web_url}/api/v2/dags") == 401


def test_postgresql_settings(cluster, postgresql):
    assert sql(cluster, "SHOW password_encryption") == "scram-sha-256"
    assert sql(cluster, "SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"
    assert sql(cluster, "SELECT count(*) FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-SHA-256$%'") == "0"


def test_postgresql_is_sized_by_the_inventory_and_the_host(cluster, postgresql):
    count = {
        group: len(cluster.members(group)) for group in ("schedulers", "dag_processors", "triggerers", "webservers")
    }
    slots = [cluster.variables[worker].get("airflow_worker_concurrency", 16) for worker in cluster.members("workers")]
    pools = count["schedulers"] + count["dag_processors"] + count["triggerers"] + 2 * count["webservers"]
    wanted = 15 * pools + sum(slots) + 4 * len(slots) + 5 * count["schedulers"] + 15
    connections = int(sql(cluster, "SHOW max_connections"))
    assert connections == -(-wanted // 100) * 100
    size = memory(cluster, "postgresql")
    megabytes = {
        "shared_buffers": max(128, size * 15 // 100),
        "work_mem": max(4, min(64, size // 8 // connections)),
        "max_wal_size": 2048,
    }
    for name, value in megabytes.items():
        assert sql(cluster, f"SELECT pg_size_bytes(current_setting('{name}')) / 1048576") == str(value), name


def test_redis_is_sized_by_the_host(cluster, celery):
    answer = redis(cluster, "admin", cluster.secrets["redis_admin_password"], "CONFIG", "GET", "maxmemory")
    assert answer.split() == ["maxmemory", str(memory(cluster, "redis") * 25 // 100 * 2**20)]


def test_postgresql_lets_in_who_needs_it(cluster, postgresql):
    password = cluster.secrets["cluster_database_password"]
    assert "connected" in connect(cluster, "control1", "airflow", "airflow", password)
    assert "authentication failed" in connect(cluster, "control1", "airflow", "airflow", password + "x")
    assert "no pg_hba.conf entry" in connect(cluster, "control1", "postgres", "airflow", password)


def test_postgresql_keeps_workers_to_the_results(cluster, celery):
    worker = cluster.members("workers")[0]
    results = cluster.secrets["cluster_results_password"]
    assert "connected" in connect(cluster, worker, "airflow_results", "airflow_results", results)
    assert "no pg_hba.conf entry" in connect(cluster, worker, "airflow", "airflow_results", results)
    if worker not in cluster.members("control"):
        right = cluster.secrets["cluster_database_password"]
        assert "no pg_hba.conf entry" in connect(cluster, worker, "airflow", "airflow", right)


def test_redis_is_supervised_by_systemd(cluster, celery):
    host = cluster.host(cluster.members("redis")[0])
    shown = host.check_output("systemctl show --property=Type,StatusText,SubState redis-server")
    assert "Type=notify" in shown
    assert "StatusText=Ready to accept connections" in shown
    assert "SubState=running" in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("supervised", "systemd"),
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("maxmemory-policy", "noeviction"),
        ("timeout", "0"),
        ("tcp-keepalive", "60"),
        ("protected-mode", "yes"),
    ],
)
def test_redis_settings(cluster, celery, name, value):
    answer = redis(cluster, "admin", cluster.secrets["redis_admin_password"], "CONFIG", "GET", name)
    assert answer.split() == [name, value]


def test_redis_lets_each_user_do_its_work_only(cluster, celery):
    secrets = cluster.secrets
    assert "NOAUTH" in redis(cluster, "default", "", "PING") + redis(cluster, "default", "x", "PING")
    assert "WRONGPASS" in redis(cluster, "airflow", secrets["cluster_redis_password"] + "x", "PING")
    for user, password in (("airflow", "cluster_redis_password"), ("flower", "cluster_redis_flower_password")):
        assert redis(cluster, user, secrets[password], "PING").strip() == "PONG"
        for command in (["CONFIG", "GET", "*"], ["FLUSHALL"], ["ACL", "LIST"], ["KEYS", "*"]):
            assert "NOPERM" in redis(cluster, user, secrets[password], *command), (user, command)


def test_flower_asks_for_a_password(cluster, celery):
    if not cluster.members("flower"):
        pytest.skip("this inventory has no Flower")
    url = f"{cluster.scheme}://{cluster.address(cluster.members('flower')[0])}:5555"
    good = cluster.secrets["airflow_flower_password"]
    assert status_of(f"{url}/workers") == 401
    assert status_of(f"{url}/workers", basic("admin", good + "x")) == 401
    assert status_of(f"{url}/workers", basic("admin", good)) == 200


def test_example_dag_runs_side_by_side(cluster, api, postgresql):
    """Its two middle tasks overlap, on two workers where there are two: whichever takes a task first has it."""
    if os.environ["MOLECULE_SCENARIO_NAME"] == "packages":
        pytest.skip("it delivers DAGs of its own")
    wanted = max(1, min(2, len(cluster.members("workers"))))
    for _ in range(10):
        tasks = {task["task_id"]: task for task in api.run_dag("parallel_dag")}
        second, third = tasks["task_2"], tasks["task_3"]
        assert second["start_date"] < third["end_date"]
        assert third["start_date"] < second["end_date"]
        hosts = {second["hostname"], third["hostname"]}
        if len(hosts) >= wanted:
            return
    raise AssertionError("both on one worker, ten times")


def test_same_dags_everywhere(cluster):
    hosts = {name for group in ("control", "workers") for name in cluster.members(group)}
    links = {cluster.host(name).check_output("readlink /opt/airflow/dags/current") for name in hosts}
    assert len(links) == 1
