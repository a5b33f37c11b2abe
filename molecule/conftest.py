"""Fixtures of the tests that look at running hosts."""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import testinfra

TOP = Path(__file__).parents[1]
SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
INVENTORY = TOP / ".lab" / SCENARIO / "inventory"
FAILURES = TOP / ".cache" / "failures.txt"
SOURCES = ["-i", str(INVENTORY), "-i", str(TOP / "lab" / "inventories" / f"{SCENARIO}.yml")]


class Cluster:
    """The cluster of a scenario, as an operator sees it."""

    def __init__(self) -> None:
        self.read_inventory()

    def read_inventory(self) -> None:
        """Read groups and variables again, after an edit."""
        done = subprocess.run(
            ["ansible-inventory", *SOURCES, "--list"], capture_output=True, text=True, check=True, cwd=TOP
        )
        self.inventory = json.loads(done.stdout)
        self.variables: dict[str, dict[str, Any]] = self.inventory["_meta"]["hostvars"]

    def members(self, group: str) -> list[str]:
        """Hosts of a group, those of its child groups included."""
        entry = self.inventory.get(group, {})
        found = [*entry.get("hosts", [])]
        for child in entry.get("children", []):
            found += self.members(child)
        return list(dict.fromkeys(found))

    def variable(self, name: str) -> Any:
        """Value of a variable that is the same on all hosts."""
        return next(iter(self.variables.values()))[name]

    @property
    def secrets(self) -> dict[str, str]:
        """Every secret of the inventory by the name of its variable."""
        marks = ("_password", "_secret", "_secret_key", "_fernet_key")
        return {name: value for name, value in next(iter(self.variables.values())).items() if name.endswith(marks)}

    @property
    def tls(self) -> bool:
        """Whether the inventory turns TLS on."""
        return bool(next(iter(self.variables.values())).get("cluster_tls", False))

    @property
    def scheme(self) -> str:
        """How the web UI and Flower are reached."""
        return "https" if self.tls else "http"

    def address(self, host: str) -> str:
        """Address of a host in the lab."""
        return self.host(host).check_output("hostname --ip-address").split()[0]

    def host(self, name: str) -> Any:
        """A host for testinfra."""
        return testinfra.get_host(f"ssh://{name}", ssh_config=str(TOP / ".lab" / SCENARIO / "ssh_config"))

    def change(self, name: str, text: str) -> None:
        """Add or replace a file of the inventory."""
        (INVENTORY / name).parent.mkdir(parents=True, exist_ok=True)
        (INVENTORY / name).write_text(text)
        self.read_inventory()

    def play(self, *arguments: str, succeeds: bool = True, environment: dict[str, str] | None = None) -> str:
        """Run ansible-playbook with this scenario's inventory and return its output."""
        argv = ["ansible-playbook", *SOURCES, *arguments]
        plain = {"ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
        variables = {**os.environ, **plain, **(environment or {})}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=TOP, env=variables)
        output = done.stdout + done.stderr
        assert (done.returncode == 0) is succeeds, output[-6000:]
        return output

    def started(self) -> dict[tuple[str, str], str]:
        """When each service of this collection became active, by host and unit."""
        command = (
            "systemctl show --property=Id,ActiveState,ActiveEnterTimestampMonotonic "
            "'airflow-*.service' 'postgresql@*.service' redis-server.service haproxy.service"
        )
        found = {}
        for name in self.variables:
            for unit in self.host(name).check_output(command).split("\n\n"):
                properties = dict(line.split("=", 1) for line in unit.splitlines())
                if properties["ActiveState"] == "active":
                    found[name, properties["Id"]] = properties["ActiveEnterTimestampMonotonic"]
        return found


def restarted(before, after) -> set[str]:
    """Services that became active anew, as host/unit."""
    return {
        f"{host}/{unit.removesuffix('.service')}"
        for (host, unit), stamp in after.items()
        if before.get((host, unit)) != stamp
    }


def changes(output: str) -> int:
    """Sum of the changes that a run reports."""
    return sum(int(count) for count in re.findall(r"changed=(\d+)", output))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of this scenario."""
    return Cluster()


def trusted() -> ssl.SSLContext | None:
    """Verifies servers of a cluster with TLS by its own authority."""
    ca = INVENTORY / ".certificates/ca.pem"
    return ssl.create_default_context(cafile=str(ca)) if ca.is_file() else None


class Api:
    """Airflow's API, logged in as the administrator."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self.headers: dict[str, str] = {}
        status, answer = self.ask("POST", "/auth/token", {"username": username, "password": password})
        assert status == 201, f"{status} {answer}"
        self.headers = {"Authorization": f"Bearer {answer['access_token']}"}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=trusted()) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    def start_dag(self, dag: str, **parameters: Any) -> str:
        """Unpause and trigger a DAG; the path of the run."""
        wait_until(lambda: self.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})[0] == 200, 60)
        status, run = self.ask("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": parameters})
        assert status == 200, run
        return f"/api/v2/dags/{dag}/dagRuns/{urllib.request.quote(run['dag_run_id'], safe='')}"

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Task instances of a run."""
        found: list[dict[str, Any]] = self.ask("GET", f"{run}/taskInstances?limit=100")[1]["task_instances"]
        return found

    def run_dag(self, dag: str, timeout: float = 120) -> list[dict[str, Any]]:
        """Unpause and trigger a DAG, wait for its success and return its task instances."""
        run = self.start_dag(dag)
        wait_until(lambda: self.ask("GET", run)[1]["state"] in ("success", "failed"), timeout)
        tasks = self.tasks(run)
        assert {task["state"] for task in tasks} == {"success"}, tasks
        return tasks


def wait_until(condition: Callable[[], bool], timeout: float) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.5)


def podman(cluster: Cluster, host: str, *arguments: str) -> str:
    """Do something with the container of a host."""
    container = f"airflow-{cluster.variable('lab_name')}-{host}"
    done = subprocess.run(["podman", *arguments, container], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def booted(cluster: Cluster, name: str) -> str:
    """When a host was booted; empty while it cannot be reached."""
    try:
        return str(cluster.host(name).check_output("stat --format=%Y /proc/1"))
    except (AssertionError, RuntimeError):
        return ""


def python_as(component: str) -> str:
    """Command line that runs Python code with Airflow's packages and the settings of a component, or of `cli`."""
    return f"set -a; . /etc/airflow/{component}.env; cd /; /opt/airflow/current/bin/python -B -c %s"


def can_read(host: Any, unit: str, path: str) -> bool:
    """Whether code that runs in a unit, as Airflow's user, can read a file."""
    pid = host.check_output("systemctl show --value --property=MainPID %s", unit)
    assert pid != "0" and host.file(path).is_file, f"{unit} does not run, or there is no {path}"
    line = "nsenter --mount --target %s setpriv --reuid=airflow --regid=airflow --clear-groups cat %s"
    return bool(host.run(line, pid, path).rc == 0)


def forms(secret: str) -> set[bytes]:
    """A secret as it is, in a URL, and between the quotes of an environment file, of JSON, of a shell and of YAML."""
    found = {secret, quote(secret, safe=""), re.sub(r'(["\\\\$`])', r"\\\1", secret), json.dumps(secret)[1:-1]}
    found |= {secret.replace("'", "'\"'\"'"), secret.replace("'", "''")}
    return {form.encode() for form in found}


def leaked(secrets: dict[str, str], output: str) -> list[str]:
    """Names of the secrets that an output holds in any of their forms."""
    text = output.encode()
    return [name for name, value in secrets.items() if any(form in text for form in forms(value))]


def basic(username: str, password: str) -> dict[str, str]:
    """Header of HTTP's basic authentication."""
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}


def status_of(url: str, headers: dict[str, str] | None = None) -> int:
    """Status of a GET."""
    try:
        request = urllib.request.Request(url, headers=headers or {})
        with urllib.request.urlopen(request, timeout=10, context=trusted()) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


# Delivers the scenario's own DAGs instead of those of the inventory.
OWN_DAGS = ("-e", f"airflow_dags={TOP / 'molecule' / SCENARIO / 'files' / 'dags'}")


@pytest.fixture(scope="session")
def own_dags(cluster: Cluster) -> None:
    """Deliver the scenario's own DAGs, which restarts nothing."""
    before = cluster.started()
    cluster.play("site.yml", *OWN_DAGS)
    assert restarted(before, cluster.started()) == set()


@pytest.fixture(scope="session")
def web_url(cluster: Cluster) -> str:
    """URL of the web UI: that of the balancer, where there is one."""
    balancers = cluster.members("load_balancers")
    host, port = (balancers[0], 8081) if balancers else (cluster.members("webservers")[0], 8080)
    return f"{cluster.scheme}://{cluster.address(host)}:{port}"


@pytest.fixture(scope="session")
def api(cluster: Cluster, web_url: str) -> Api:
    """The API, logged in."""
    return Api(web_url, "admin", cluster.secrets["airflow_admin_password"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests marked `long` to `make test-all`, in `make test`."""
    if os.environ.get("TEST_WITHOUT_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="make test-all runs it"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Keep what failed: the suite prints it last, where the scenario's recap would hide it."""
    reports = [*terminalreporter.getreports("error"), *terminalreporter.getreports("failed")]
    FAILURES.parent.mkdir(exist_ok=True)
    FAILURES.write_text("\n".join(f"{report.nodeid}\n{report.longreprtext[-3000:]}\n" for report in reports))
