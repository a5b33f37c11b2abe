"""TLS on every port: who verifies, who is refused, and what a renewal restarts. The tests are run in this order."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from conftest import INVENTORY, Api, basic, can_read, changes, python_as, restarted, status_of, wait_until

CERTIFICATES = INVENTORY / ".certificates"
CHANGE = "group_vars/all/zzz_change.yml"
PORTS = {5432: "db1", 6379: "db1", 8081: "db1", 8080: "control1", 5555: "control1"}
SERVED = {
    5432: "/etc/postgresql/*/main/airflow.pem",
    6379: "/etc/redis/airflow.pem",
    8081: "/etc/haproxy/airflow-cluster.pem",
    8080: "/etc/airflow/tls/server.pem",
    5555: "/etc/airflow/tls/server.pem",
}
each_port = pytest.mark.parametrize("port", PORTS)

# What Celery, its result backend and a task do at first, with the settings of the worker.
CONNECT = """
import os, sys
for name in ('BROKER_URL', 'RESULT_BACKEND'):
    os.environ[f'AIRFLOW__CELERY__{name}'] = os.environ[f'AIRFLOW__CELERY__{name}'].replace(*sys.argv[2:])
from celery import Celery
from sqlalchemy import create_engine, text
def broker():
    app = Celery(broker=os.environ['AIRFLOW__CELERY__BROKER_URL'])
    app.connection_for_read().ensure_connection(max_retries=1)
def results():
    url = os.environ['AIRFLOW__CELERY__RESULT_BACKEND'].removeprefix('db+')
    create_engine(url).connect().execute(text('SELECT 1'))
def api():
    from airflow.configuration import conf
    from airflow.sdk.api.client import Client
    client = Client(base_url=conf.get('core', 'execution_api_server_url').replace(*sys.argv[2:]), token='none')
    client._transport.handle_request(client.build_request('GET', 'health'))
try:
    globals()[sys.argv[1]]()
    print('connected')
except Exception as problem:
    print(repr(problem), repr(problem.__cause__))
"""


def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run openssl, which is asked nothing; who says nothing to it, as a server without TLS may, has ended it."""
    argv = ["timeout", "20", "openssl", *arguments]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def s_client(cluster, port: int, ca: Path, name: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Connect as a client that verifies the server: by its address, or by another name."""
    address = cluster.address(PORTS[port])
    starttls = ("-starttls", "postgres") if port == 5432 else ()
    wanted = name or ("-verify_ip", address)
    verify = ("-CAfile", str(ca), "-no-CApath", "-verify_return_error", *wanted)
    return openssl("s_client", "-connect", f"{address}:{port}", *verify, *starttls)


def serial(cluster, port: int) -> str:
    """Serial number of the certificate that is served."""
    shown = s_client(cluster, port, CERTIFICATES / "ca.pem").stdout
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True, text=True, check=True
    )
    return done.stdout


def connect(cluster, what: str, address: str = "-", name: str = "-") -> str:
    """Connect from the worker as its processes do, or to another name instead of an address; what came of it."""
    line = (
        "set -a; . /etc/airflow/worker.env; cd /; exec setpriv --reuid=airflow --regid=airflow --clear-groups"
        " /opt/airflow/current/bin/python -c %s %s %s %s 2>/dev/null"
    )
    return str(cluster.host("worker1").run(line, CONNECT, what, address, name).stdout).strip().rpartition("\n")[2]


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that nobody in the cluster knows, with its key beside it."""
    return authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that browsers know."""
    return authority(tmp_path_factory.mktemp("public"))


def authority(folder: Path) -> Path:
    """Make an authority in a folder."""
    ca = folder / "ca.pem"
    make = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")
    done = openssl(*make, "-subj", "/CN=stranger", "-keyout", str(ca.with_suffix(".key")), "-out", str(ca))
    assert done.returncode == 0, done.stderr
    return ca


def sign(ca: Path, name: str, names: str, days: int = 30) -> tuple[Path, Path]:
    """Certificate and key that an authority signed for some names, in its folder."""
    key, request, made, extension = (ca.with_name(f"{name}.{ending}") for ending in ("key", "csr", "pem", "ext"))
    extension.write_text(f"subjectAltName={names}\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key), "-out", str(request))
    signer = ("-CA", str(ca), "-CAkey", str(ca.with_suffix(".key")), "-CAcreateserial")
    for done in (
        openssl("req", "-subj", f"/CN={name}", *new),
        openssl(
            "x509",
            "-req",
            "-in",
            str(request),
            *signer,
            "-days",
            str(days),
            "-extfile",
            str(extension),
            "-out",
            str(made),
        ),
    ):
        assert done.returncode == 0, done.stderr
    return made, key


@each_port
def test_who_knows_the_authority_verifies_the_server(cluster, port):
    done = s_client(cluster, port, CERTIFICATES / "ca.pem")
    assert "Verify return code: 0 (ok)" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    for name in (PORTS[port], "localhost"):
        assert s_client(cluster, port, CERTIFICATES / "ca.pem", ("-verify_hostname", name)).returncode == 0, name


@each_port
def test_a_wrong_authority_or_name_fails(cluster, port, stranger):
    done = s_client(cluster, port, stranger)
    assert done.returncode != 0 and "verify error" in done.stdout + done.stderr
    done = s_client(cluster, port, CERTIFICATES / "ca.pem", ("-verify_hostname", "elsewhere.example.org"))
    assert done.returncode != 0 and "hostname mismatch" in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize("port", [6379, 8081, 8080, 5555])
def test_plain_text_is_refused(cluster, port):
    words = b"PING\r\n" if port == 6379 else b"GET / HTTP/1.0\r\n\r\n"
    with socket.create_connection((cluster.address(PORTS[port]), port), timeout=20) as connection:
        connection.sendall(words)
        try:
            answer = connection.recv(100)
        except ConnectionResetError:
            answer = b""
    # An alert of TLS, at most.
    assert answer == b"" or answer[0] == 21, answer


def test_plain_text_is_refused_by_postgresql(cluster):
    code = (
        "import os, psycopg2; url = os.environ['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN'].replace('+psycopg2', '');"
        " psycopg2.connect(url.replace('verify-full', 'disable'))"
    )
    host = cluster.host("control1")
    line = python_as("scheduler")
    done = host.run(line, code)
    assert done.rc != 0 and "no pg_hba.conf entry" in done.stderr and "no encryption" in done.stderr
    # The same without that word is let in.
    assert host.run(line, code.replace("'disable'", "'verify-full'")).rc == 0


def test_every_connection_to_postgresql_is_encrypted(cluster):
    query = (
        "SELECT ssl, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE client_addr IS NOT NULL GROUP BY ssl"
    )
    shown = cluster.host("db1").check_output("runuser -u postgres -- psql --tuples-only --no-align --command %s", query)
    assert shown.startswith("t|") and "\n" not in shown, shown


def test_the_second_pool_of_airflow_verifies_too(cluster):
    """That of asyncpg, whose URL says nothing of it."""
    code = (
        "import asyncio; from airflow import settings; from sqlalchemy import text\n"
        "async def ask():\n"
        "    async with settings.AsyncSession() as session:\n"
        "        found = await session.execute(text('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()'))\n"
        "        print('encrypted', found.scalar())\n"
        "asyncio.run(ask())"
    )
    line = "set -a; . /etc/airflow/api-server.env; cd /; {} /opt/airflow/current/bin/python -c %s"
    host = cluster.host("control1")
    assert "encrypted True" in host.check_output(line.format(""), code)
    wrong = "import database_tls, ssl; database_tls.connect_args['ssl'] = ssl.create_default_context();" + code
    done = host.run(line.format("env SSL_CERT_FILE=/dev/null"), wrong)
    assert done.rc != 0 and "certificate verify failed" in done.stdout + done.stderr


def test_keys_stay_where_they_are_needed(cluster):
    key = (CERTIFICATES / "ca.key").read_text().splitlines()[1]
    assert (CERTIFICATES / "ca.key").stat().st_mode & 0o777 == 0o600
    assert CERTIFICATES.stat().st_mode & 0o777 == 0o700
    found = {}
    for name in cluster.variables:
        host = cluster.host(name)
        assert host.run("grep --recursive --fixed-strings --files-with-matches -e %s /etc /root /opt", key).rc == 1
        # Modes of all private keys that came with the collection.
        shown = host.check_output(
            "find /etc/airflow /etc/redis /etc/postgresql /etc/haproxy \\( -name '*.key' -o -name '*cluster.pem' \\)"
            " -printf '%p %u %g %m\\n' 2>/dev/null | sort"
        )
        found[name] = [line.split("/")[-1] for line in shown.splitlines()]
    assert found == {
        "db1": [
            "airflow-cluster.pem root root 600",
            "airflow.key postgres postgres 600",
            "airflow.key root redis 640",
        ],
        "control1": ["server.key root airflow 640"],
        "worker1": [],
    }


def readers_of_the_key(cluster) -> set[str]:
    """Components that can read the key of their host."""
    components, key = (
        ("api-server", "dag-processor", "flower", "scheduler", "triggerer"),
        "/etc/airflow/tls-keys/server.key",
    )
    return {name for name in components if can_read(cluster.host("control1"), f"airflow-{name}", key)}


def test_tasks_do_not_see_the_key(cluster):
    """Their user may read it, but nowhere where they run."""
    assert readers_of_the_key(cluster) == {"api-server", "flower"}


def test_a_second_run_changes_nothing(cluster):
    assert changes(cluster.play("site.yml")) == 0


def test_a_worker_with_a_wrong_authority_connects_to_nothing(cluster, stranger):
    targets = ("broker", "results", "api")
    assert [connect(cluster, what) for what in targets] == ["connected"] * 3
    host = cluster.host("worker1")
    host.check_output("printf %%s %s > /etc/airflow/tls/ca.pem", stranger.read_text())
    for what in targets:
        assert "certificate verify failed" in connect(cluster, what), what
    host.check_output("systemctl restart airflow-worker")
    said = "journalctl --unit airflow-worker --since -2min --output cat"
    wait_until(lambda: "certificate verify failed" in host.run(said).stdout, 90)
    output = cluster.play("playbooks/verify.yml", succeeds=False)
    assert "worker1" in output
    before = cluster.started()
    cluster.play("site.yml")
    assert restarted(before, cluster.started()) == {"worker1/airflow-worker"}
    assert connect(cluster, "broker") == "connected"


@pytest.mark.parametrize("what", ["broker", "results", "api"])
def test_a_worker_does_not_talk_to_a_server_of_another_name(cluster, what):
    """Who is signed by the authority, and yet somebody else: its certificate is not for that name."""
    address, worker = cluster.address("db1"), cluster.host("worker1")
    assert connect(cluster, what, address, "db1") == "connected", "that name is in it"
    worker.check_output("echo %s stranger.example.org >> /etc/hosts", address)
    try:
        said = connect(cluster, what, address, "stranger.example.org")
    finally:
        worker.check_output("grep -v stranger.example.org /etc/hosts > /tmp/hosts; cat /tmp/hosts > /etc/hosts")
    assert "connected" not in said
    assert re.search("Hostname mismatch|does not match host name", said), said


def test_a_renewal_restarts_who_cannot_read_a_file_again(cluster):
    """PostgreSQL and Redis read theirs anew, and keep their connections."""
    soon = ("-e", "certificates_days=800", "-e", "certificates_renew_days=400")
    password = cluster.secrets["redis_admin_password"]
    clients = (
        f"REDISCLI_AUTH=%s redis-cli -h {cluster.address('db1')} --tls --cacert /etc/redis/airflow-ca.pem"
        " --user admin --no-auth-warning CLIENT LIST"
    )

    def connections() -> set[str]:
        lines = cluster.host("db1").check_output(clients, password).splitlines()
        return {line.split()[0] for line in lines if f" addr={cluster.address('worker1')}:" in line}

    keys = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in CERTIFICATES.glob("*.key")}
    before, serials, kept = cluster.started(), {port: serial(cluster, port) for port in PORTS}, connections()
    output = cluster.play("site.yml", "--check", *soon)
    assert changes(output) > 0 and "Say for which hosts a certificate would be signed" in output
    assert {port: serial(cluster, port) for port in PORTS} == serials
    cluster.play("site.yml", *soon)
    assert restarted(before, cluster.started()) == {"control1/airflow-api-server", "control1/airflow-flower"}
    renewed = {port: serial(cluster, port) for port in PORTS}
    assert all(renewed[port] != serials[port] for port in PORTS)
    assert readers_of_the_key(cluster) == {"api-server", "flower"}
    assert kept and kept <= connections()
    assert keys == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in CERTIFICATES.glob("*.key")}
    assert changes(cluster.play("site.yml", *soon)) == 0
    cluster.play("playbooks/verify.yml")


@pytest.mark.parametrize(
    "secret", ["airflow_admin_password", "airflow_jwt_secret", "cluster_database_password", "cluster_redis_password"]
)
def test_a_secret_is_rotated_over_tls(cluster, web_url, secret):
    """The run asks services on its way; what becomes of many tasks meanwhile is told by the scenario `rotate`."""
    old = cluster.secrets[secret]
    api = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    run = api.start_dag("parallel_dag")
    wait_until(lambda: "running" in [task["state"] for task in api.tasks(run)], 60)
    cluster.play("playbooks/rotate.yml", "-e", f"secret={secret}")
    cluster.read_inventory()
    assert cluster.secrets[secret] not in ("", old)
    if secret.endswith("jwt_secret"):
        assert status_of(f"{web_url}/api/v2/dags", api.headers) in (401, 403), "whoever was logged in logs in again"
    again = Api(web_url, "admin", cluster.secrets["airflow_admin_password"])
    wait_until(lambda: again.ask("GET", run)[1]["state"] in ("success", "failed"), 120)
    assert {(task["state"], task["try_number"]) for task in again.tasks(run)} == {("success", 1)}
    cluster.play("playbooks/verify.yml")


def test_a_certificate_of_ones_own(cluster, stranger):
    address = cluster.address("control1")
    own = f"---\ncluster_tls_ca: {stranger}\n"
    cluster.change(CHANGE, own)
    before = cluster.started()
    for names, days, text in (
        (f"IP:{address}", -1, "a certificate that is valid now"),
        ("DNS:elsewhere", 30, f"not for {address}"),
    ):
        made, key = sign(stranger, "bad", names, days)
        cluster.change("host_vars/control1.yml", f"---\ncluster_tls_certificate: {made}\ncluster_tls_key: {key}\n")
        output = cluster.play("site.yml", succeeds=False)
        assert text in " ".join(output.split()) and "found:" in output and "remedy:" in output
        assert changes(output) == 0
    made, key = sign(stranger, "control1", f"IP:{address}")
    cluster.change(
        "host_vars/control1.yml", f"---\ncluster_tls_certificate: {made}\ncluster_tls_key: {CERTIFICATES / 'db1.key'}\n"
    )
    output = cluster.play("site.yml", succeeds=False)
    assert "the key of another certificate" in " ".join(output.split()) and changes(output) == 0
    assert restarted(before, cluster.started()) == set()
    cluster.change("host_vars/control1.yml", f"---\ncluster_tls_certificate: {made}\ncluster_tls_key: {key}\n")
    cluster.play("site.yml")
    assert s_client(cluster, 8080, stranger).returncode == 0
    assert s_client(cluster, 5432, stranger).returncode != 0
    assert s_client(cluster, 5432, CERTIFICATES / "ca.pem").returncode == 0
    cluster.play("playbooks/verify.yml")


def test_browsers_and_flower_through_the_balancer(cluster, public):
    """With a certificate for browsers besides: the balancer verifies Flower and the API servers behind it."""
    made, key = sign(public, "airflow.example.org", "DNS:airflow.example.org")
    both = made.with_name("both.pem")
    both.write_text(made.read_text() + key.read_text())
    cluster.change(
        "group_vars/all/haproxy.yml",
        f"---\nhaproxy_certificate: {both}\nhaproxy_server_name: airflow.example.org\nhaproxy_flower: true\n",
    )
    try:
        cluster.play("site.yml")
        context = ssl.create_default_context(cafile=str(made.with_name("ca.pem")))
        logins = basic("admin", cluster.secrets["airflow_flower_password"])
        for path, headers, wanted in (("/api/v2/version", {}, 200), ("/flower/", logins, 200), ("/flower/", {}, 401)):
            connection = http.client.HTTPSConnection("airflow.example.org", 443, timeout=30, context=context)
            raw = socket.create_connection((cluster.address("db1"), 443), 30)
            connection.sock = context.wrap_socket(raw, server_hostname="airflow.example.org")
            connection.request("GET", path, headers=headers)
            assert connection.getresponse().status == wanted, path
        cluster.play("playbooks/verify.yml")
        assert changes(cluster.play("site.yml")) == 0
    finally:
        cluster.change("group_vars/all/haproxy.yml", "---\n")


def test_behind_the_firewall(cluster):
    everybody = ("-e", '{"cluster_firewall": true}')
    cluster.play("site.yml", *everybody)
    output = cluster.play("playbooks/verify.yml", *everybody)
    assert "Off: " not in output
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection((cluster.address("db1"), 6379), 3)
    assert connect(cluster, "broker") == "connected"
    assert changes(cluster.play("site.yml", *everybody)) == 0
    cluster.play("site.yml")


def test_off_and_on_again(cluster):
    (INVENTORY / "host_vars/control1.yml").unlink(missing_ok=True)
    cluster.change(CHANGE, "---\ncluster_tls: false\n")
    cluster.play("site.yml")
    assert status_of(f"http://{cluster.address('control1')}:8080/api/v2/version") == 200
    assert s_client(cluster, 6379, CERTIFICATES / "ca.pem").returncode != 0
    for name in cluster.variables:
        find = "find /etc/airflow /etc/redis /etc/postgresql /etc/haproxy -name '*.key' -o -name '*.pem' 2>/dev/null"
        assert cluster.host(name).run(find).stdout == "", name
    assert changes(cluster.play("site.yml")) == 0
    assert "Off: cluster_tls" in cluster.play("playbooks/verify.yml")
    cluster.change(CHANGE, "---\n")
    cluster.play("site.yml")
    output = cluster.play("playbooks/verify.yml")
    assert "Off: cluster_firewall" in output and "cluster_tls (" not in output
    for port in PORTS:
        assert s_client(cluster, port, CERTIFICATES / "ca.pem").returncode == 0, port
    assert changes(cluster.play("site.yml")) == 0
