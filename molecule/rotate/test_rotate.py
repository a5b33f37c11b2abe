"""Every secret gets a new value while tasks run: none fails, the old one is refused, and what is encrypted stays so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from conftest import (
    INVENTORY,
    SOURCES,
    TOP,
    Api,
    Cluster,
    basic,
    can_read,
    changes,
    leaked,
    restarted,
    status_of,
    wait_until,
)
from load import Load

VAULT = INVENTORY / "group_vars/all/vault.yml"
PATIENCE = 300
CONTROL = {f"control1/airflow-{name}" for name in ("api-server", "dag-processor", "scheduler", "triggerer")}
WORKERS = {"worker1/airflow-worker", "worker2/airflow-worker"}
SHORT, LONG = 20, 75
"""Seconds that a task runs which is there when a rotation begins; the long one outlasts several restarts."""

pytestmark = pytest.mark.usefixtures("own_dags")


FETCH = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": sys.stdin.read()})
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as refusal:
    print(refusal.code)
"""


class Renewing(Api):
    """Logs in again when its token is refused, as a client of the API does."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.cluster = cluster
        super().__init__(url, "admin", cluster.secrets["airflow_admin_password"])

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, answer = super().ask(method, path, body)
        if status in (401, 403) and path != "/auth/token":
            login = {"username": "admin", "password": vault()["airflow_admin_password"]}
            status, token = super().ask("POST", "/auth/token", login)
            if status == 201:
                self.headers = {"Authorization": f"Bearer {token['access_token']}"}
            return super().ask(method, path, body)
        return status, answer


class Rotated(NamedTuple):
    """What came of a rotation."""

    old: str
    new: str
    restarted: set[str]
    output: str


def vault() -> dict[str, Any]:
    """The vault file, as it is now."""
    text = VAULT.read_text()
    found = re.findall(r'(?m)^(\w+): "(.*)"$', text)
    return dict(found)


def phase() -> str:
    """The phase that the vault file is in; empty between rotations."""
    found = re.search(r'(?m)^cluster_rotation: .*"phase": "(\w+)"', VAULT.read_text())
    return found[1] if found else ""


def rotate(cluster: Cluster, secret: str) -> str:
    return cluster.play("playbooks/rotate.yml", "-e", f"secret={secret}")


def break_off(secret: str, when: Callable[[], bool]) -> None:
    """Kill a run as soon as something holds."""
    argv = ["ansible-playbook", *SOURCES, "playbooks/rotate.yml", "-e", f"secret={secret}"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg")}
    run = subprocess.Popen(
        argv, cwd=TOP, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(lambda: when() or run.poll() is not None, 400)
        assert run.poll() is None, "it was over before"
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


@contextmanager
def load_on(api: Api, seconds: int, *dags: str) -> Iterator[None]:
    """Tasks that run meanwhile, each of which must succeed on its first try."""
    with Load(api, "") as load:
        run = load.start("patient", seconds=seconds)
        further = [load.start(dag) for dag in dags]
        wait_until(lambda: [task["state"] for task in api.tasks(run)] == ["running", "running"], 90)
        for one in further:
            wait_until(lambda one=one: [task["state"] for task in api.tasks(one)] == ["deferred"], 90)
        yield
    count = load.count(datetime.now(tz=UTC), PATIENCE)
    assert (count.retried, count.failed, count.lost) == (0, 0, 0), count
    assert count.submitted > 4, count


def rotation(cluster: Cluster, api: Api, secret: str, seconds: int = SHORT, *dags: str) -> Rotated:
    """Rotate a secret under load."""
    old, before = vault()[secret], cluster.started()
    with load_on(api, seconds, *dags):
        begun = time.monotonic()
        output = rotate(cluster, secret)
        print(f"{secret}: {time.monotonic() - begun:.0f} s")
    cluster.read_inventory()
    new = cluster.secrets[secret]
    assert new != old and len(new) >= 32 and phase() == ""
    assert leaked({"old": old, "new": new}, output) == []
    return Rotated(old, new, restarted(before, cluster.started()), output)


def token(key: str, **claims: Any) -> str:
    """A token that somebody made with a key."""

    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    now = int(time.time())
    head = {"alg": "HS512", "typ": "JWT", "kid": hashlib.sha256(key.encode()).hexdigest()[:16]}
    body = {"iat": now, "nbf": now, "exp": now + 600, **claims}
    signed = f"{part(json.dumps(head).encode())}.{part(json.dumps(body).encode())}"
    return f"{signed}.{part(hmac.new(key.encode(), signed.encode(), hashlib.sha512).digest())}"


def execution_status(url: str, key: str) -> int:
    """What the execution API says to a task with a token made with a key: of a task that there is not."""
    who = str(uuid.uuid4())
    bearer = token(key, sub=who, aud="urn:airflow.apache.org:task", scope="execution")
    request = urllib.request.Request(
        f"{url}/execution/task-instances/{who}/heartbeat",
        json.dumps({"hostname": "nowhere", "pid": 1}).encode(),
        {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
        method="PUT",
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


CONNECT = """
import json, sys
import psycopg2
told = json.load(sys.stdin)
connection = psycopg2.connect(**told["to"])
cursor = connection.cursor()
cursor.execute(told["query"])
print(cursor.fetchone()[0])
"""


def query(cluster: Cluster, host: str, user: str, password: str, database: str, text: str) -> tuple[bool, str]:
    """Whether a role may log in from a host, and the answer or the refusal."""
    to = {"host": cluster.address("db1"), "user": user, "password": password, "dbname": database}
    told = json.dumps({"to": to, "query": text})
    done = cluster.host(host).run("printf %%s %s | /opt/airflow/current/bin/python -c %s", told, CONNECT)
    return done.rc == 0, (done.stdout + done.stderr).strip()


def redis_answer(cluster: Cluster, user: str, password: str) -> str:
    """What Redis says to a login."""
    host = cluster.host("db1")
    return str(host.check_output("printf %%s %s | redis-cli -h db1", f'AUTH {user} "{password}"\nPING\n'))


def guarded(api: Api) -> tuple[str, str]:
    """The encrypted values, as the API server decrypts them. A connection's password is not shown, its extra is."""
    connection = api.ask("GET", "/api/v2/connections/guarded")[1]
    return connection["extra"], api.ask("GET", "/api/v2/variables/guarded")[1]["value"]


def history(api: Api) -> int:
    return int(api.ask("GET", "/api/v2/dags/~/dagRuns?limit=1")[1]["total_entries"])


@pytest.fixture(scope="module")
def api(cluster: Cluster, web_url: str) -> Api:
    """The API, with the DAGs switched on and something encrypted."""
    found = Renewing(cluster, web_url)
    connection = {"connection_id": "guarded", "conn_type": "generic", "password": "kept", "extra": '{"note": "kept"}'}
    assert found.ask("POST", "/api/v2/connections", connection)[0] in (201, 409)
    assert found.ask("POST", "/api/v2/variables", {"key": "guarded", "value": "kept"})[0] in (201, 409)
    for dag in ("stream", "patient", "deferred"):
        wait_until(lambda dag=dag: found.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})[0] == 200, 120)
    return found


def test_what_cannot_be_rotated_is_refused_with_the_names(cluster):
    text = VAULT.read_text()
    for arguments in ((), ("-e", "secret=cluster_redis_passwort")):
        output = cluster.play("playbooks/rotate.yml", *arguments, succeeds=False)
        for name in cluster.secrets:
            assert name in output
    output = cluster.play(
        "playbooks/rotate.yml", "-e", "secret=airflow_jwt_secret", "--limit", "control1", succeeds=False
    )
    assert "not in this run" in output and "worker1" in output
    assert VAULT.read_text() == text


def test_fernet_key(cluster, api):
    before = guarded(api), history(api)
    done = rotation(cluster, api, "airflow_fernet_key", SHORT, "deferred")
    assert done.restarted == CONTROL
    assert (guarded(api), history(api) >= before[1]) == (before[0], True)
    # Nothing in the database needs the old key any more, and no host has it.
    keys = cluster.host("control1").check_output("grep -h FERNET_KEY /etc/airflow/*.env")
    assert done.old not in keys and keys.count(done.new) == 5
    assert guarded(api)[1] == "kept"
    # What lies in the database says nothing: Fernet's tokens begin like this.
    for sql in ("password || extra FROM connection WHERE conn_id", "val FROM variable WHERE key"):
        psql = "runuser -u postgres -- psql --tuples-only --no-align airflow --command %s"
        stored = cluster.host("db1").check_output(psql, f"SELECT {sql} = 'guarded'")
        assert stored.startswith("gAAAA") and "kept" not in stored


def test_fernet_key_after_break_offs(cluster, api):
    """Once when both are accepted, and once when all is encrypted anew: the same new key to the end."""
    old, before = vault()["airflow_fernet_key"], guarded(api)
    with load_on(api, SHORT):
        break_off("airflow_fernet_key", lambda: phase() == "accept" and old_and_new_on_control(cluster, old))
        assert vault()["airflow_fernet_key"] == old
        other = re.search(r'"value": "([^"]+)"', VAULT.read_text())
        assert other
        refused = cluster.play("playbooks/rotate.yml", "-e", "secret=airflow_jwt_secret", succeeds=False)
        assert "airflow_fernet_key, in the phase accept" in refused
        break_off("airflow_fernet_key", lambda: phase() == "use")
        assert vault()["airflow_fernet_key"] == other[1]
        # site.yml between them makes the same phase true everywhere, and takes nothing away.
        cluster.play("site.yml", "-e", f"airflow_dags={TOP / 'molecule/rotate/files/dags'}")
        assert guarded(api) == before
        rotate(cluster, "airflow_fernet_key")
    assert (vault()["airflow_fernet_key"], phase()) == (other[1], "")
    assert guarded(api) == before
    assert old not in cluster.host("control1").check_output("cat /etc/airflow/*.env")


def old_and_new_on_control(cluster: Cluster, old: str) -> bool:
    """Whether a component has the old key and another one."""
    return f"{old}," in str(cluster.host("control1").run("cat /etc/airflow/api-server.env").stdout)


def test_jwt_secret(cluster, api, web_url):
    held = dict(api.headers)
    done = rotation(cluster, api, "airflow_jwt_secret", LONG)
    assert done.restarted == {"control1/airflow-api-server", "control1/airflow-scheduler"}
    assert execution_status(web_url, done.old) == 403
    assert execution_status(web_url, done.new) == 404
    assert status_of(f"{web_url}/api/v2/dags", held) in (401, 403), "whoever was logged in logs in again"
    control = cluster.host("control1")
    assert not control.file("/etc/airflow/api-server/jwks.json").exists
    assert done.old not in control.check_output("cat /etc/airflow/*.env")


def test_jwt_secret_after_a_break_off(cluster, api, web_url):
    """While both are accepted, tokens of either are good; nobody but the service may read the keys."""
    old = vault()["airflow_jwt_secret"]
    with load_on(api, LONG):
        break_off(
            "airflow_jwt_secret",
            lambda: phase() == "use" and execution_status_or_none(web_url, vault()["airflow_jwt_secret"]) == 404,
        )
        new = vault()["airflow_jwt_secret"]
        assert new != old
        wait_until(lambda: execution_status_or_none(web_url, old) == 404, 60)
        keys = cluster.host("control1").file("/etc/airflow/api-server/jwks.json")
        assert (keys.mode, keys.user, keys.group) == (0o640, "root", "airflow")
        readers = {name for name in CONTROL if can_read(cluster.host("control1"), name.partition("/")[2], keys.path)}
        assert readers == {"control1/airflow-api-server"}, "code of DAGs would sign itself a token"
        rotate(cluster, "airflow_jwt_secret")
    assert (vault()["airflow_jwt_secret"], phase()) == (new, "")
    assert (execution_status(web_url, old), execution_status(web_url, new)) == (403, 404)


def execution_status_or_none(url: str, key: str) -> int | None:
    """None while the API server restarts."""
    try:
        return execution_status(url, key)
    except OSError:
        return None


def test_api_secret_key(cluster, api, web_url):
    held = dict(api.headers)
    done = rotation(cluster, api, "airflow_api_secret_key", SHORT)
    units = ("api-server", "scheduler", "triggerer")
    assert done.restarted == {f"control1/airflow-{name}" for name in units} | WORKERS
    # Logs are asked for with a request that is signed with it.
    run = api.start_dag("stream")
    wait_until(lambda: api.ask("GET", run)[1]["state"] == "success", 60)
    status, log = api.ask("GET", f"{run}/taskInstances/read_worker1/logs/1")
    assert status == 200 and "http://" in json.dumps(log)
    place = cluster.host("worker1").check_output("cd /var/lib/airflow/logs && ls -t dag_id=stream/*/*/*.log | head -1")
    address = f"http://{cluster.address('worker1')}:8793/log/{place}"
    tokens = [token(key, filename=place, aud="task-instance-logs") for key in (done.old, done.new)]
    # From a host that the firewall lets ask for it.
    ask = "printf %%s %s | python3 -c %s %s"
    statuses = [int(cluster.host("control1").check_output(ask, signed, FETCH, address)) for signed in tokens]
    assert statuses == [403, 200]
    assert status_of(f"{web_url}/api/v2/dags", held) == 200, "a token of the API is not signed with it"


def test_database_password(cluster, api):
    count = history(api)
    login = {"": "airflow", "airflow": "airflow_2", "airflow_2": "airflow"}
    for _ in range(2):  # to the second role, and back to the owner
        now = vault().get("cluster_database_login", "airflow")
        done = rotation(cluster, api, "cluster_database_password", SHORT)
        assert done.restarted == CONTROL
        new_login = vault()["cluster_database_login"]
        assert new_login == login[now]
        ok, said = query(cluster, "control1", new_login, done.new, "airflow", "SELECT current_user")
        assert (ok, said) == (True, "airflow"), "whoever logs in, the owner works"
        for user in ("airflow", "airflow_2"):
            assert not query(cluster, "control1", user, done.old, "airflow", "SELECT 1")[0]
        ok, said = query(cluster, "control1", now, done.new, "airflow", "SELECT 1")
        refusals = ("not permitted to log in", "password authentication failed", "no pg_hba.conf entry")
        assert not ok and any(words in said for words in refusals), said
    owners = "SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables WHERE schemaname = 'public'"
    assert query(cluster, "control1", new_login, done.new, "airflow", owners)[1] == "airflow"
    assert history(api) > count


def test_results_password_after_a_break_off(cluster, api):
    """Broken off while the workers restart: some have the new one, some the old, and both work."""
    old = vault()["cluster_results_password"]
    before = cluster.started()
    with load_on(api, SHORT):
        break_off("cluster_results_password", lambda: bool(restarted(before, cluster.started()) & WORKERS))
        new, login = vault()["cluster_results_password"], vault()["cluster_results_login"]
        assert (phase(), login) == ("use", "airflow_results_2")
        database = "airflow_results"
        assert query(cluster, "worker1", login, new, database, "SELECT current_user") == (True, "airflow_results")
        assert query(cluster, "worker1", "airflow_results", old, database, "SELECT 1")[0]
        rotate(cluster, "cluster_results_password")
    assert (vault()["cluster_results_password"], phase()) == (new, "")
    assert restarted(before, cluster.started()) == {"control1/airflow-scheduler"} | WORKERS
    assert query(cluster, "worker1", login, new, database, "SELECT 1")[0]
    assert not query(cluster, "worker1", "airflow_results", old, database, "SELECT 1")[0]


def test_redis_password(cluster, api):
    done = rotation(cluster, api, "cluster_redis_password", LONG)
    assert done.restarted == {"control1/airflow-scheduler"} | WORKERS, "Redis itself is not restarted"
    assert "WRONGPASS" in redis_answer(cluster, "airflow", done.old)
    assert redis_answer(cluster, "airflow", done.new).split() == ["OK", "PONG"]


def test_redis_password_after_a_break_off(cluster, api):
    """Broken off before the old one is refused: both are good, and the same command finishes it."""
    old = vault()["cluster_redis_flower_password"]
    with load_on(api, SHORT):
        break_off("cluster_redis_flower_password", lambda: phase() == "refuse")
        new = vault()["cluster_redis_flower_password"]
        assert redis_answer(cluster, "flower", new).split() == ["OK", "PONG"]
        before = cluster.started()
        rotate(cluster, "cluster_redis_flower_password")
    assert (vault()["cluster_redis_flower_password"], phase()) == (new, "")
    assert "WRONGPASS" in redis_answer(cluster, "flower", old)
    assert restarted(before, cluster.started()) == set()


def test_redis_admin_password_in_an_encrypted_file(cluster, api, tmp_path, monkeypatch):
    password = tmp_path / "password"
    password.write_text("a vault's password\n")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))
    old, plain = vault()["redis_admin_password"], VAULT.read_text()
    subprocess.run(["ansible-vault", "encrypt", str(VAULT)], check=True, capture_output=True, cwd=TOP)
    before = cluster.started()
    try:
        with load_on(api, SHORT):
            rotate(cluster, "redis_admin_password")
        assert VAULT.read_text().startswith("$ANSIBLE_VAULT;")
    finally:
        subprocess.run(["ansible-vault", "decrypt", str(VAULT)], check=True, capture_output=True, cwd=TOP)
    new = vault()["redis_admin_password"]
    assert VAULT.read_text() == plain.replace(old, new)
    assert restarted(before, cluster.started()) == set()
    assert "WRONGPASS" in redis_answer(cluster, "admin", old)
    assert redis_answer(cluster, "admin", new).split() == ["OK", "PONG"]


def test_admin_password(cluster, api, web_url):
    done = rotation(cluster, api, "airflow_admin_password", SHORT)
    assert done.restarted == set()
    with pytest.raises(AssertionError, match="401"):
        Api(web_url, "admin", done.old)
    assert Api(web_url, "admin", done.new).ask("GET", "/api/v2/dags")[0] == 200


def test_flower_password(cluster, api):
    done = rotation(cluster, api, "airflow_flower_password", SHORT)
    assert done.restarted == {"control1/airflow-flower"}
    url = f"http://{cluster.address('control1')}:5555/workers"
    assert [status_of(url, basic("admin", value)) for value in (done.old, done.new)] == [401, 200]


def test_afterwards_nothing_is_left_to_do(cluster, api):
    cluster.play("playbooks/verify.yml")
    assert changes(cluster.play("site.yml", "-e", f"airflow_dags={TOP / 'molecule/rotate/files/dags'}")) == 0
    assert "cluster_rotation" not in VAULT.read_text()
    assert guarded(api)[1] == "kept"
