"""HAProxy before the web UI and Flower: TLS, headers, one way in.

The cluster of test_firewall.py gets a balancer on the host of the database, and loses it again.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
from urllib.parse import urlencode

import pytest
from conftest import INVENTORY, Cluster, basic, changes, restarted
from test_firewall import reaches

NAME = "airflow.example.org"
CERTIFICATE = INVENTORY / ".pki/airflow.pem"
SETTINGS = f"""---
haproxy_certificate: "{{{{ inventory_dir }}}}/.pki/airflow.pem"
haproxy_server_name: {NAME}
haproxy_flower: true
"""
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "strict-origin-when-cross-origin",
    "strict-transport-security": "max-age=31536000",
}


def make_certificate(days: int = 2) -> str:
    """Write a certificate with its key where the inventory has it; its serial number."""
    CERTIFICATE.parent.mkdir(exist_ok=True)
    parts = [CERTIFICATE.with_name(name) for name in ("part.pem", "part.key")]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days), "-subj", f"/CN={NAME}"]
    argv += ["-addext", f"subjectAltName=DNS:{NAME}", "-out", str(parts[0]), "-keyout", str(parts[1])]
    subprocess.run(argv, check=True, capture_output=True)
    CERTIFICATE.write_text("".join(part.read_text() for part in parts))
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(parts[0]), "-noout", "-serial"], check=True, capture_output=True, text=True
    )
    return shown.stdout.strip().partition("=")[2]


class Browser:
    """Somebody who trusts the certificate, and finds the name at the balancer."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.context = ssl.create_default_context(cafile=str(CERTIFICATE.with_name("part.pem")))

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: str | None = None
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and text of an answer."""
        connection = http.client.HTTPSConnection(NAME, 443, timeout=30, context=self.context)
        raw = socket.create_connection((self.address, 443), 30)
        connection.sock = self.context.wrap_socket(raw, server_hostname=NAME)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        fields = {name.lower(): "\n".join(answer.headers.get_all(name, [])) for name in answer.headers}
        return answer.status, fields, answer.read().decode(errors="replace")

    def serial(self) -> str:
        """Serial number of the certificate that is shown."""
        argv = ["openssl", "s_client", "-connect", f"{self.address}:443", "-servername", NAME]
        shown = subprocess.run(argv, input=b"", capture_output=True, check=True).stdout
        done = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True, check=True)
        return done.stdout.decode().strip().partition("=")[2]


@pytest.fixture(scope="module")
def browser(cluster: Cluster) -> Browser:
    """Set the balancer up, and look at it."""
    make_certificate()
    hosts = INVENTORY / "hosts.yml"
    if "load_balancers" not in hosts.read_text():
        hosts.write_text(hosts.read_text() + "    load_balancers: {hosts: {db1: {}}}\n")
    cluster.change("group_vars/all/haproxy.yml", SETTINGS)
    return Browser(cluster.address("db1"))


def test_settings_of_somebody_else_are_not_replaced(cluster, browser):
    db1 = cluster.host("db1")
    db1.check_output("mkdir -p /etc/haproxy && echo '# mine' > /etc/haproxy/haproxy.cfg")
    output = cluster.play("site.yml", succeeds=False)
    for word in ("HAProxy on db1", "Nothing was changed", "remedy:"):
        assert word in output, word
    assert changes(output) == 0
    assert db1.file("/etc/haproxy/haproxy.cfg").content_string == "# mine\n"
    db1.check_output("rm -r /etc/haproxy")


def test_a_key_of_another_certificate_is_refused(cluster, browser):
    good = CERTIFICATE.read_text()
    first = CERTIFICATE.with_name("part.pem").read_text()
    make_certificate()
    CERTIFICATE.write_text(first + CERTIFICATE.with_name("part.key").read_text())
    try:
        output = cluster.play("site.yml", succeeds=False)
    finally:
        CERTIFICATE.write_text(good)
        CERTIFICATE.with_name("part.pem").write_text(first)
    for word in ("haproxy_certificate", "KEY_VALUES_MISMATCH", "remedy:"):
        assert word in output, word
    assert changes(output) == 0


def test_it_is_set_up_and_tells_no_key(cluster, browser):
    output = cluster.play("site.yml", "--diff", environment={"ANSIBLE_VERBOSITY": "3"})
    key = [line for line in CERTIFICATE.read_text().splitlines() if len(line) == 64][-1]
    assert key in CERTIFICATE.read_text() and key not in output
    assert f"https://{NAME}" in cluster.play("playbooks/verify.yml")
    assert changes(cluster.play("site.yml")) == 0
    file = cluster.host("db1").file("/etc/haproxy/airflow.pem")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o600)


def test_nothing_else_is_open(cluster, browser):
    outside = {port for port in (80, 443, 8081) if opens(cluster, "outsider1", "db1", port)}
    assert outside == {80, 443}
    assert opens(cluster, "worker1", "db1", 8081)
    assert reaches(cluster, "outsider1", "control1") == set()
    assert reaches(cluster, "worker1", "control1") == {8080}, "as before it knew of the balancer"
    assert reaches(cluster, "db1", "control1") == {5555, 8080}


def opens(cluster: Cluster, whence: str, host: str, port: int) -> bool:
    """Whether a host gets through to a port of another."""
    code = f"import socket; socket.create_connection(('{cluster.address(host)}', {port}), 3)"
    return bool(cluster.host(whence).run("python3 -c %s", code).rc == 0)


def test_http_is_sent_to_https(cluster, browser):
    connection = http.client.HTTPConnection(browser.address, 80, timeout=10)
    connection.request("GET", "/dags?x=1", headers={"Host": "evil.example.org"})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("location")) == (301, f"https://{NAME}/dags?x=1")


@pytest.mark.parametrize("version", ["-tls1_1", "-tls1_2", "-tls1_3"])
def test_versions_of_tls(version, browser):
    argv = ["openssl", "s_client", "-connect", f"{browser.address}:443", version, "-cipher", "DEFAULT@SECLEVEL=0"]
    done = subprocess.run(argv, input=b"", capture_output=True, check=False)
    assert (done.returncode == 0) is (version != "-tls1_1"), done.stderr


@pytest.mark.parametrize("path", ["/", "/api/v2/version", "/auth/login/", "/flower/"])
def test_headers(path, cluster, browser):
    headers = basic("admin", cluster.secrets["airflow_flower_password"]) if "flower" in path else {}
    status, fields, _ = browser.ask("GET", path, headers)
    assert status == 200
    assert {name: fields.get(name) for name in HEADERS} == HEADERS
    assert "content-security-policy" in fields


def test_login_as_a_browser_does_it(cluster, browser):
    """The form of the page, its token, and a cookie that goes over TLS alone."""
    status, fields, page = browser.ask("GET", "/auth/login/")
    assert status == 200
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    sent = "; ".join(line.partition(";")[0] for line in fields["set-cookie"].splitlines())
    form = {"username": "admin", "password": cluster.secrets["airflow_admin_password"]}
    form |= {"csrf_token": token[1]} if token else {}
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": sent,
        "Referer": f"https://{NAME}/auth/login/",
    }
    status, fields, _ = browser.ask("POST", "/auth/login/", headers, urlencode(form))
    assert status in (302, 303), fields
    assert "http://" not in fields["location"], "it does not lead back to plain text"
    tokens = [line.lower() for line in fields["set-cookie"].splitlines() if line.startswith("_token=")]
    assert tokens and all("secure" in line.split("; ") for line in tokens), "the cookie goes over TLS alone"


def test_what_a_client_says_of_itself_counts_for_nothing(cluster, browser):
    browser.ask("GET", "/api/v2/version?mark=forged", {"X-Forwarded-For": "203.0.113.9"})
    journal = "journalctl --unit airflow-api-server --no-pager --since -2min | grep mark=forged"
    line = cluster.host("control1").check_output(journal)
    assert "203.0.113.9" not in line, line


@pytest.mark.parametrize(
    ("path", "login", "status"),
    [
        ("/flower", True, 200),
        ("/flower/workers", True, 200),
        ("/flower/workers", False, 401),
        ("/flower/healthcheck", True, 403),
        ("/flower/%68ealthcheck", True, 403),
        ("/flower/metrics", False, 403),
        ("/flowers", False, 200),
    ],
)
def test_flower(path, login, status, cluster, browser):
    headers = basic("admin", cluster.secrets["airflow_flower_password"]) if login else {}
    found, _, page = browser.ask("GET", path, headers)
    if path == "/flower":
        assert found == 301
        found, _, page = browser.ask("GET", "/flower/", headers)
    assert found == status, page
    if status == 200 and login:
        assert "/flower/static/" in page, "its links have the prefix"


def test_a_task_goes_through(cluster, browser):
    body = json.dumps({"username": "admin", "password": cluster.secrets["airflow_admin_password"]})
    status, _, text = browser.ask("POST", "/auth/token", {"Content-Type": "application/json"}, body)
    assert status == 201 and json.loads(text)["access_token"]
    cluster.play("playbooks/verify.yml")


def test_a_new_certificate_is_a_reload(cluster, browser):
    before, old = cluster.started(), browser.serial()
    new = make_certificate(3)
    assert new != old
    cluster.play("playbooks/haproxy.yml")
    assert Browser(browser.address).serial() == new
    assert restarted(before, cluster.started()) == set()
    assert changes(cluster.play("playbooks/haproxy.yml")) == 0


def test_a_host_that_is_the_balancer_no_longer(cluster, browser):
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("    load_balancers: {hosts: {db1: {}}}\n", ""))
    cluster.read_inventory()
    cluster.play("site.yml")
    db1 = cluster.host("db1")
    assert not db1.service("haproxy").is_running and not db1.service("haproxy").is_enabled
    for path in ("haproxy.cfg", "airflow.pem"):
        assert not db1.file(f"/etc/haproxy/{path}").exists
    assert reaches(cluster, "outsider1", "control1") == {5555, 8080}
    cluster.play("playbooks/verify.yml")
    assert changes(cluster.play("site.yml")) == 0
    # What the distribution ships is gone with ours; the host may become the balancer again.
    output = cluster.play("playbooks/preflight.yml")
    assert "foreign" not in output
