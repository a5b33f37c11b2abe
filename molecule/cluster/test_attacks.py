"""What somebody gets who reaches the hosts, has stolen a worker's files, or may write a DAG.

Each refusal stands beside the same request with the right secret, which is let in: a request that is wrong in itself
would be refused as well. docs/security.md says what holds, and is compared here where it lists something.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from conftest import SCENARIO, TOP, basic, can_read, wait_until

FILES = TOP / "molecule" / "cluster" / "files" / "attacks"
SSH = ("ssh", "-F", str(TOP / ".lab" / SCENARIO / "ssh_config"))
PAGE = (TOP / "docs" / "security.md").read_text()
PYTHON = "/opt/airflow/current/bin/python"
SPIED = ("control1", "worker1")
KEPT = "/etc/airflow/api-server/kept"
"""A file that the API server may read."""


def knock(*doors: tuple[Any, ...], member: str = "") -> list[Any]:
    """What each door says to a member of the cluster, or to this machine, which is none."""
    script = (FILES / "knock.py").read_text()
    there = [*SSH, member, f"{PYTHON} -c {json.dumps('import sys; exec(sys.argv[1])')} {quoted(script)}"]
    argv = there if member else [sys.executable, "-c", script]
    done = subprocess.run(argv, input=json.dumps(doors), capture_output=True, text=True, check=True, timeout=120)
    said: list[Any] = json.loads(done.stdout)
    assert len(said) == len(doors)
    return said


def quoted(text: str) -> str:
    """Text as one word of a shell."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def token(key: str, algorithm: str = "HS512", **claims: Any) -> str:
    """A JSON web token as Airflow makes them."""
    now = int(time.time())
    parts = [{"alg": algorithm, "typ": "JWT", "kid": "not-used"}, {"nbf": now, "iat": now, "exp": now + 60, **claims}]
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    signature = b"" if algorithm == "none" else hmac.digest(key.encode(), text.encode(), hashlib.sha512)
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def bearer(text: str) -> dict[str, str]:
    """Header with a token."""
    return {"Authorization": f"Bearer {text}"}


def fetch(url: str) -> str:
    """Text of an answer to a GET without a login."""
    # Uncompressed, the schema of the Execution API is cut off: FastAPI gives it a wrong length.
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        body = answer.read()
    return (gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body).decode()


def literal(value: Any) -> str:
    """Text that the inventory marks with !unsafe."""
    return str(value["__ansible_unsafe"])


def documented(heading: str) -> set[str]:
    """What is in backticks at the start of the items of a list below a heading of docs/security.md."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"(?m)^- `([^`]+)`", section))


@pytest.fixture(scope="module", autouse=True)
def spy(cluster, api) -> Iterator[None]:
    """A DAG of an attacker, for the last test: until then the DAG processor has found it."""
    assert api.ask("DELETE", "/api/v2/dags/spy")[0] in (204, 404)
    text = (FILES / "spy.py").read_text()
    keep = f"install -m 0640 -g airflow /etc/hostname {KEPT}"
    for name in SPIED:
        cluster.host(name).check_output(f"printf %%s %s > /opt/airflow/canary/spy.py && {keep}", text)
    yield
    for name in SPIED:
        cluster.host(name).check_output(f"rm -f /opt/airflow/canary/spy.py {KEPT}")


@pytest.fixture(scope="module", autouse=True)
def no_firewall(cluster) -> Iterator[None]:
    """Each service must withstand them by itself; the scenario `firewall` looks at what does not even reach it."""
    for name in cluster.variables:
        cluster.host(name).check_output("systemctl stop dataops-airflow-firewall")
    yield
    for name in cluster.variables:
        cluster.host(name).check_output("systemctl start dataops-airflow-firewall")


@pytest.fixture(scope="module")
def stolen(cluster) -> dict[str, str]:
    """The secrets of worker1, as root finds them there."""
    command = "sh -c 'set -a; . /etc/airflow/worker.env; exec env -0'"
    pairs = (pair.partition("=") for pair in cluster.host("worker1").check_output(command).split("\0") if pair)
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize("member", ["", "worker2"])
def test_nobody_gets_in_with_a_wrong_password_or_none(cluster, web_url, member):
    db, control, worker = (cluster.address(name) for name in ("db1", "control1", "worker1"))
    secrets = cluster.secrets
    wrong = {name: f"{value}x" for name, value in secrets.items()}
    said = knock(
        ("postgresql", db, 5432, "airflow", "airflow", wrong["cluster_database_password"]),
        # The right password does not help: the address is not one of those.
        ("postgresql", db, 5432, "airflow", "airflow", secrets["cluster_database_password"]),
        ("postgresql", db, 5432, "postgres", "postgres", "postgres"),
        ("postgresql", db, 5432, "airflow_results", "airflow_results", wrong["cluster_results_password"]),
        ("redis", db, 6379, "PING", f"AUTH\tairflow\t{wrong['cluster_redis_password']}", "PING"),
        ("redis", db, 6379, f"AUTH\tadmin\t{wrong['redis_admin_password']}", "AUTH\tdefault\t"),
        (
            "http",
            "POST",
            f"{web_url}/auth/token",
            {},
            {"username": "admin", "password": wrong["airflow_admin_password"]},
        ),
        ("http", "GET", f"{web_url}/api/v2/dags", bearer("x")),
        ("http", "GET", f"{web_url}/api/v2/dags", {}),
        ("http", "GET", f"http://{control}:5555/workers", basic("admin", wrong["airflow_flower_password"])),
        ("http", "GET", f"http://{control}:5555/api/workers", {}),
        ("http", "GET", f"http://{control}:5555/metrics", {}),
        ("http", "GET", f"http://{control}:5555/healthcheck", {}),
        ("http", "GET", f"http://{worker}:8793/log/x", {}),
        ("http", "GET", f"http://{control}:8794/log/x", {}),
        ("http", "GET", f"http://{control}:8974/health", {}),
        member=member,
    )
    assert all("no pg_hba.conf entry" in text for text in said[:3]), said[:3]
    assert ("password authentication failed" if member else "no pg_hba.conf entry") in said[3]
    assert re.fullmatch(r"-NOAUTH .*-WRONGPASS .*-NOAUTH .*", said[4], re.DOTALL), said[4]
    assert said[5].count("-WRONGPASS") == 2
    assert said[6:13] == [401, 403, 401, 401, 401, 401, 401]
    assert said[13:15] == [403, 403]
    assert "refused" in said[15]


def test_the_right_passwords_open_those_doors(cluster, web_url):
    """Else the test above would pass in front of closed doors."""
    db, control = cluster.address("db1"), cluster.address("control1")
    secrets = cluster.secrets
    login = basic("admin", secrets["airflow_flower_password"])
    said = knock(
        ("postgresql", db, 5432, "airflow_results", "airflow_results", secrets["cluster_results_password"]),
        ("redis", db, 6379, f"AUTH\tairflow\t{secrets['cluster_redis_password']}"),
        (
            "http",
            "POST",
            f"{web_url}/auth/token",
            {},
            {"username": "admin", "password": secrets["airflow_admin_password"]},
        ),
        *(("http", "GET", f"http://{control}:5555/{page}", login) for page in ("workers", "metrics", "healthcheck")),
        member="worker2",
    )
    assert said == ["connected", "+OK", 201, 200, 200, 200]
    local = knock(("http", "GET", f"http://{control}:5555/healthcheck", {}), member="control1")
    proxied = ("http", "GET", f"http://{control}:5555/healthcheck", {"X-Forwarded-For": "192.0.2.1"})
    assert [*local, *knock(proxied, member="control1")] == [200, 401]


def test_a_stolen_workers_files_open_no_metadata_database(cluster, stolen):
    """From that worker, from another address, and from inside the server, as the role that the worker has."""
    assert stolen["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite:////nonexistent/")
    url = urlsplit(stolen["AIRFLOW__CELERY__RESULT_BACKEND"].removeprefix("db+"))
    role = (url.username, cluster.secrets["cluster_results_password"])
    metadata, results = (("postgresql", url.hostname, url.port, name, *role) for name in ("airflow", "airflow_results"))
    assert knock(results, member="worker1") == ["connected"]
    assert "no pg_hba.conf entry" in knock(metadata, member="worker1")[0]
    assert all("no pg_hba.conf entry" in text for text in knock(metadata, results))
    ask = "cd / && runuser -u postgres -- psql --no-align --tuples-only --dbname airflow --command %s 2>&1"
    db = cluster.host("db1")
    for table in ("ab_user", "connection", "variable", "task_instance"):
        assert db.run(ask, f"SELECT 'there' WHERE to_regclass('{table}') IS NOT NULL").stdout == "there\n"
        told = db.run(ask, f"SET ROLE airflow_results; TABLE {table}").stdout
        assert f"permission denied for table {table}" in told
    rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication FROM pg_roles WHERE rolname = '{}'"
    groups = "SELECT count(*) FROM pg_auth_members WHERE member::regrole::text IN ('airflow', 'airflow_results')"
    found = [db.check_output(ask, question) for question in (rights.format(role[0]), rights.format("airflow"), groups)]
    assert found == ["f", "f", "0"]


def test_a_stolen_workers_files_open_no_api(cluster, web_url, stolen):
    """It has the key that signs requests for logs: that one signs neither users nor tasks, nor sessions."""
    key, right = stolen["AIRFLOW__API__SECRET_KEY"], cluster.secrets["airflow_jwt_secret"]
    assert right not in stolen.values()
    user, task = {"sub": "1"}, {"sub": str(uuid.uuid4()), "aud": "urn:airflow.apache.org:task", "scope": "execution"}
    dags, variable = f"{web_url}/api/v2/dags", f"{web_url}/execution/variables/none"

    def ask(key: str, algorithm: str = "HS512") -> list[Any]:
        return knock(
            ("http", "GET", dags, bearer(token(key, algorithm, **{"aud": "apache-airflow", **user}))),
            ("http", "GET", variable, bearer(token(key, algorithm, **task))),
        )

    refused = [401, 403]
    for forged in (ask(key), ask(""), ask("x" * 64), ask(right, "none")):
        assert all(status in refused for status in forged), forged
    assert ask(right) == [200, 404], "the same with the right key is let in: the API's tokens look like that"
    expired = bearer(token(right, **{**task, "exp": int(time.time()) - 3600}))
    foreign = bearer(token(right, **{**task, "aud": "task-instance-logs"}))
    assert knock(("http", "GET", variable, expired), ("http", "GET", variable, foreign)) == [403, 403]
    session = (
        "import os; from flask import Flask; app = Flask('x'); app.secret_key = os.environ['KEY']; "
        "print(app.session_interface.get_signing_serializer(app).dumps({'_user_id': '1', '_fresh': True, '_id': 'x'}))"
    )
    cookie = cluster.host("worker1").check_output(f"KEY=%s {PYTHON} -c %s", key, session)
    pages = [("http", "GET", f"{web_url}/auth/users/list/", {"Cookie": f"session={cookie}"})]
    assert all(status in (302, 401, 403) for status in knock(*pages))


def test_a_forged_request_gets_no_log(cluster, stolen):
    host, key = cluster.host("worker1"), stolen["AIRFLOW__API__SECRET_KEY"]
    logs = "/var/lib/airflow/logs/"
    path = host.check_output(f"find {logs} -name 'attempt=1.log' -printf '%P\\n' | head -1")
    assert path, "the canary has left a log here"

    def ask(path: str, key: str, **claims: Any) -> tuple[Any, ...]:
        claims = {"aud": "task-instance-logs", "filename": path, **claims}
        url = f"http://{cluster.address('worker1')}:8793/log/{quote(path, safe='/.')}"
        return ("http", "GET", url, {"Authorization": token(key, **claims)})

    climb = "../../../../etc/airflow/worker.env"
    said = knock(
        ask(path, key),
        ask(path, "x" * 64),
        ask(path, cluster.secrets["airflow_jwt_secret"]),
        ask(path, key, filename="another"),
        ask(path, key, aud="apache-airflow"),
        ask(path, key, exp=int(time.time()) - 3600),
        ask(climb, key),
        ask(climb.replace("..", "%2e%2e"), key, filename=climb),
        ask("/etc/passwd", key),
    )
    assert said[0] == 200
    assert said[1:6] == [403] * 5
    assert all(status in (403, 404) for status in said[6:]), said[6:]


def test_the_api_answers_nobody_but_as_documented(web_url):
    """Every path of every schema, without a token, with each method."""
    doors = {}
    version = max(re.findall(r"version=([0-9-]+)", fetch(f"{web_url}/execution/docs")))
    for app, query in (("", ""), ("/execution", f"?version={version}"), ("/auth", "")):
        for path, operations in json.loads(fetch(f"{web_url}{app}/openapi.json{query}"))["paths"].items():
            for method in operations.keys() & {"get", "post", "put", "patch", "delete", "head"}:
                filled = re.sub(r"\{[^}]*\}", "1", path)
                doors[f"{method.upper()} {app}{path}"] = ("http", method.upper(), f"{web_url}{app}{filled}", {}, None)
    assert len(doors) > 150
    for page in (
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/execution/docs",
        "/auth/login/",
        "/auth/users/list/",
        "/dags",
    ):
        doors.setdefault(f"GET {page}", ("http", "GET", f"{web_url}{page}", {}))
    open_to_all = {name for name, status in zip(doors, knock(*doors.values()), strict=True) if 200 <= status < 300}
    print(sorted(open_to_all))
    assert open_to_all == documented("What the API answers without a login")


def test_hostile_text_arrives_as_it_is(cluster):
    control = cluster.host("control1")
    wanted = literal(cluster.variable("airflow_environment")["HOSTILE"])
    assert "\n" in wanted and "{{ inventory_hostname }}" in wanted
    for unit in ("scheduler", "api-server"):
        read = f"systemd-run --quiet --pipe --wait --property=EnvironmentFile=/etc/airflow/{unit}.env /usr/bin/env -0"
        environment = control.check_output(read).split("\0")
        assert f"HOSTILE={wanted}" in environment
        assert not [entry for entry in environment if entry.startswith("AIRFLOW__CORE__UNIT_TEST_MODE")]
    name = literal(cluster.variable("airflow_config")["api"]["instance_name"])
    assert control.check_output("airflow config get-value api instance_name") == name


def test_the_examples_of_logins_load(cluster):
    """With the Flask-AppBuilder that is installed."""
    code = "from flask import Config; c = Config('/'); c.from_pyfile('/dev/stdin'); print(c['AUTH_TYPE'])"
    for name, kind in (("ldap", "2"), ("oidc", "4")):
        text = (TOP / "docs" / "examples" / f"webserver_config_{name}.py").read_text()
        load = f"printf %%s %s | {PYTHON} -c %s"
        assert cluster.host("control1").check_output(load, text, code) == kind


def test_the_form_is_closed_after_five_wrong_passwords(web_url):
    """In a browser's session, with the form's own token; it opens again by itself."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    url = f"{web_url}/auth/login/"

    def form(password: str) -> int:
        hidden = re.search(r'name="csrf_token"[^>]*value="([^"]*)"', page)
        assert hidden
        fields = {"csrf_token": hidden[1], "username": "nobody", "password": password}
        try:
            with browser.open(url, urlencode(fields).encode(), timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            return refusal.code

    with browser.open(url, timeout=20) as answer:
        page = answer.read().decode()
    statuses = [form(f"wrong-{number}") for number in range(8)]
    assert statuses[-3:] == [429] * 3, statuses
    wait_until(lambda: form("another") == 200, 60)


@pytest.mark.parametrize("number", [20, pytest.param(1000, marks=pytest.mark.long)])
def test_wrong_logins_of_the_api_let_nobody_in_and_lock_nobody_out(cluster, web_url, number):
    """Airflow sets no limit there: docs/security.md says so, and what stands in its place."""
    assert "`POST /auth/token`, has no such limit" in PAGE
    door = f"{web_url}/auth/token"
    tries = [("http", "POST", door, {}, {"username": "admin", "password": f"wrong-{count}"}) for count in range(number)]
    for start in range(0, number, 20):
        assert knock(*tries[start : start + 20]) == [401] * 20
    right = {"username": "admin", "password": cluster.secrets["airflow_admin_password"]}
    assert knock(("http", "POST", door, {}, right)) == [201]


def test_commands_import_nothing_that_a_dag_wrote(cluster, api):
    """They have every secret, and no sandbox."""
    mark = "/var/lib/airflow/imported"
    host, names = cluster.host("control1"), "difflib alembic airflow sitecustomize"
    write = "printf %%s %s > /var/lib/airflow/$name.py; chown airflow: /var/lib/airflow/$name.py"
    host.check_output(f"for name in {names}; do {write}; done", f"open('{mark}', 'w')")
    try:
        host.check_output("airflow db check-migrations")
        cluster.play("playbooks/settings.yml", "-e", '{"airflow_variables": {"harmless": "x"}}')
        assert not host.file(mark).exists
    finally:
        host.check_output(f"for name in {names}; do rm /var/lib/airflow/$name.py; done")
        assert api.ask("DELETE", "/api/v2/variables/harmless")[0] in (204, 404)


def test_a_dag_reads_no_secret_file(cluster, api):
    """Neither when it is parsed nor when it runs; what its process itself was given, it can see, as documented."""
    wait_until(lambda: api.ask("GET", "/api/v2/dags/spy")[0] == 200, 60)
    parsed = json.loads(api.ask("GET", "/api/v2/dags/spy/details")[1]["doc_md"])
    run = api.start_dag("spy")
    wait_until(lambda: api.ask("GET", run)[1]["state"] in ("success", "failed"), 60)
    told = api.ask("GET", f"{run}/taskInstances/look/xcomEntries/return_value")[1]["value"]
    ran = json.loads(told) if isinstance(told, str) else told
    for found in (parsed, ran):
        assert (found["opened"], found["written"]) == ([], [])
    assert can_read(cluster.host("control1"), "airflow-api-server", KEPT)
    # A name space of users for each unit: they are of one user, and yet closed to each other.
    assert (parsed["units"], ran["units"]) == (["airflow-dag-processor.service"], ["airflow-worker.service"])
    assert set(ran["variables"]) == documented("What a task on a worker can read")
    assert set(parsed["variables"]) == documented("What a DAG can read when it is parsed")
