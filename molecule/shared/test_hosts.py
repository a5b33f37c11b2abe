"""What holds on every host of every scenario. A scenario's own tests are the test_*.py beside its molecule.yml."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import forms

UNITS = {
    "schedulers": "airflow-scheduler",
    "webservers": "airflow-api-server",
    "dag_processors": "airflow-dag-processor",
    "triggerers": "airflow-triggerer",
    "flower": "airflow-flower",
    "workers": "airflow-worker",
}
# Who listens where; "own" is the host's cluster address, "any" every address.
PORTS = {
    "postgresql": {5432: "own"},
    "redis": {6379: "own"},
    "load_balancers": {8081: "own"},
    "schedulers": {8974: "loopback"},
    "webservers": {8080: "any"},
    "triggerers": {8794: "any"},
    "flower": {5555: "own"},
    "workers": {8793: "any"},
}
METADATA_SECRETS = ("cluster_database_password", "airflow_jwt_secret", "airflow_fernet_key", "airflow_admin_password")


def name_of(host: Any) -> str:
    """Name of a host in the inventory."""
    return str(host.check_output("hostname"))


def groups_of(host: Any, cluster: Any) -> set[str]:
    """Groups of a host."""
    name = name_of(host)
    return {group for group in (*UNITS, "postgresql", "redis", "load_balancers") if name in cluster.members(group)}


def units_of(host: Any, cluster: Any) -> list[str]:
    """Airflow's units that the inventory wants on a host."""
    return [unit for group, unit in UNITS.items() if group in groups_of(host, cluster)]


def read(host: Any, command: str) -> bytes:
    """Output of a command, whatever its encoding."""
    return bytes(host.run(command).stdout_bytes)


def test_no_unit_has_failed(host):
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def test_units_are_those_of_the_groups(host, cluster):
    wanted = units_of(host, cluster)
    for unit in wanted:
        service = host.service(unit)
        assert service.is_running, unit
        assert service.is_enabled, unit
    files = host.check_output(
        "find /etc/systemd/system -maxdepth 1 -type f -name 'airflow-*.service' -printf '%f\\n'"
    ).split()
    if wanted:
        assert host.file("/opt/airflow/current/healthy").exists, "site.yml did not wait until its components worked"
    looked_at = ["airflow-worker-check.service"] if "airflow-worker" in wanted else []
    assert sorted(files) == sorted([f"{unit}.service" for unit in wanted] + looked_at)
    if looked_at:
        assert host.service("airflow-worker-check.timer").is_running


def test_webserver_is_another_name_of_the_api_server(host, cluster):
    if "webservers" not in groups_of(host, cluster):
        assert not host.service("airflow-webserver").is_running
        return
    assert host.check_output("systemctl show --value --property=Id airflow-webserver") == "airflow-api-server.service"


def test_ports(host, cluster):
    own = cluster.address(name_of(host))
    listening = host.check_output("ss --listening --tcp --numeric --no-header | awk '{print $4}'").split()
    expected = {port: where for group in groups_of(host, cluster) for port, where in PORTS.get(group, {}).items()}
    if not cluster.members("workers") and "schedulers" in groups_of(host, cluster):
        expected[8793] = "any"
    for port, where in expected.items():
        heard = {line.rpartition(":")[0] for line in listening if line.endswith(f":{port}")}
        allowed = {"own": {own, "127.0.0.1", "[::1]"}, "loopback": {"127.0.0.1"}, "any": {"*", "0.0.0.0", "[::]"}}[
            where
        ]
        assert heard, f"nobody listens on {port}"
        assert heard <= allowed, (port, heard)
    every = {port for ports in PORTS.values() for port in ports}
    heard_ports = {int(line.rpartition(":")[2]) for line in listening}
    assert heard_ports & every == set(expected)


def test_modes_and_owners_of_the_servers(host, cluster):
    groups = groups_of(host, cluster)
    files = {
        "postgresql": {"/etc/postgresql/*/main/pg_hba.conf": "postgres postgres 640"},
        "redis": {"/etc/redis/redis.conf": "root redis 640", "/etc/redis/users.acl": "root redis 640"},
        "load_balancers": {"/etc/haproxy/haproxy.cfg": "root root 644"},
    }
    for group in files.keys() & groups:
        for path, wanted in files[group].items():
            assert host.check_output(f"stat --format='%U %G %a' {path}") == wanted, path


def test_modes_and_owners(host, cluster):
    if not units_of(host, cluster):
        assert not host.file("/etc/airflow").exists
        return
    for path in host.check_output("find /etc/airflow /etc/systemd/system/airflow-*.service -type f").split():
        file = host.file(path)
        key = path.endswith(".key")
        assert (file.user, file.group) == ("root", "airflow" if key else "root"), path
        assert file.mode == (0o640 if key else 0o600 if path.endswith(".env") else 0o644), path
    loose = "find /opt/airflow ! -user root -o -perm /022 ! -type l | head"
    assert host.check_output(loose) == ""
    home = host.file("/var/lib/airflow")
    assert (home.user, home.mode) == ("airflow", 0o750)
    if cluster.members("postgresql"):
        assert not host.file("/var/lib/airflow/airflow.db").exists, "something used the silent SQLite"
    assert not host.file("/var/lib/airflow/airflow.cfg").exists, "something generated its own configuration"


def test_no_secret_where_it_is_not_needed(host, cluster):
    """A host without a control component holds neither the metadata password nor the keys of the API."""
    control = groups_of(host, cluster) & {"schedulers", "webservers", "dag_processors", "triggerers"}
    haystack = read(
        host,
        "cat /etc/airflow/* /etc/airflow/*/* /etc/systemd/system/airflow-* 2>/dev/null;"
        " cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n';"
        " systemctl show '*' 2>/dev/null; journalctl --no-pager 2>/dev/null",
    )
    for name in METADATA_SECRETS:
        if not control:
            assert not [form for form in forms(cluster.secrets[name]) if form in haystack], name
    readable = read(
        host,
        # All that everybody may read, but for what came in packages.
        "find / /run /tmp /var/tmp /dev/shm -xdev \\( -path /usr -o -path /var/lib/dpkg -o -path /var/lib/apt"
        " -o -path /var/cache -o -name site-packages \\) -prune"
        " -o -type f -perm /004 -size -1000k -exec cat {} + 2>/dev/null;"
        " cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'; journalctl --no-pager 2>/dev/null",
    )
    for name, value in cluster.secrets.items():
        assert not [form for form in forms(value) if form in readable], f"{name} can be read by everybody"
    if "airflow-worker" in units_of(host, cluster):
        # The search above finds a secret where there is one.
        assert [form for form in forms(cluster.secrets["cluster_results_password"]) if form in haystack]


RATINGS = {**dict.fromkeys([*UNITS.values(), "airflow-worker-check", "redis-server"], 1.5), "postgresql@*": 4.0}
"""The worst rating of systemd-analyze that each unit may have: 0 is best, 10 is none at all."""


@pytest.mark.parametrize("unit", RATINGS)
def test_sandbox(host, cluster, unit):
    groups, limit = groups_of(host, cluster), RATINGS[unit]
    wanted = units_of(host, cluster) + [
        name
        for name, group in (
            ("redis-server", "redis"),
            ("postgresql@*", "postgresql"),
            ("airflow-worker-check", "workers"),
        )
        if group in groups
    ]
    if unit not in wanted:
        assert not host.service(unit).is_running
        return
    if unit.endswith("*"):
        unit = host.check_output(f"systemctl list-units --plain --no-legend '{unit}.service' | cut -d ' ' -f 1")
    rating = host.check_output(f"systemd-analyze security --no-pager {unit} | tail -1")
    print(rating)
    assert float(rating.split(":")[1].split()[0]) <= limit, rating
    if unit == "airflow-worker-check":
        return
    # The rating is that of the file; this is the process. Without rights for it, systemd skips a sandbox silently.
    pid = host.check_output(f"systemctl show --value --property=MainPID {unit}")
    status = dict(line.split(":\t", 1) for line in host.file(f"/proc/{pid}/status").content_string.splitlines())
    assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapBnd"], 16)) == ("2", "1", 0)
    mounts = host.file(f"/proc/{pid}/mountinfo").content_string
    assert " /usr " in mounts or re.search(r" / ro[ ,]", mounts), "the file system is not read-only"


def test_operators_command(host, cluster):
    if "schedulers" not in groups_of(host, cluster):
        assert not host.file("/usr/local/bin/airflow").exists
        return
    assert host.check_output("airflow version") == "3.3.2"
    executor = "CeleryExecutor" if cluster.members("workers") else "LocalExecutor"
    assert host.check_output("airflow config get-value core executor") == executor
