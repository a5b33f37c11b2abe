"""Two control hosts behind one address: either may be away, and nothing is lost."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime

import pytest
from conftest import INVENTORY, OWN_DAGS, TOP, Api, Cluster, booted, changes, podman, restarted, status_of, wait_until
from load import Count, Load

CONTROL = ("control1", "control2")
# Longer than ssh keeps a connection for the next command: one to a host without power would hang.
AWAY = 75
# Longer than the interval in which a scheduler looks for what a dead one had queued and told nobody.
PATIENCE = 480

ASK = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/haproxy/admin.sock'); "
    "s.sendall(sys.argv[1].encode()); print(s.makefile().read())"
)

pytestmark = pytest.mark.usefixtures("own_dags")


class Watch:
    """Somebody who reloads the web UI twice a second, and notes each time that it did not come."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.looks = 0
        self.failures: list[tuple[float, str]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def __enter__(self) -> Watch:
        self.begun = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def look(self) -> None:
        """Fetch the page, and what needs the server itself, until it is over."""
        while not self.over.wait(0.5):
            for path in ("/", "/api/v2/monitor/health"):
                asked = round(time.monotonic() - self.begun, 1)
                try:
                    status = status_of(self.url + path)
                    trouble = "" if status == 200 else f"status {status}"
                except OSError as problem:
                    trouble = str(problem)
                self.looks += 1
                if trouble:
                    self.failures.append((asked, f"{path}: {trouble}"))


def haproxy(cluster: Cluster, command: str) -> str:
    """What the running HAProxy answers."""
    host = cluster.host(cluster.members("load_balancers")[0])
    return str(host.check_output("python3 -c %s %s", ASK, f"{command}\n"))


def servers(cluster: Cluster) -> dict[str, dict[str, str]]:
    """State of each API server, as HAProxy sees it."""
    head, *rows = haproxy(cluster, "show stat airflow 4 -1").strip().splitlines()
    names = head.removeprefix("# ").split(",")
    return {row.split(",")[1]: dict(zip(names, row.split(","), strict=True)) for row in rows}


def nothing_is_lost(load: Load, count: Count, watch: Watch, in_flight: int = 0) -> None:
    """Every task that was taken on succeeded, on the first try that began, and every page came.

    ``in_flight`` pages may have been on their way from a host that lost its power: to be asked for again.
    """
    assert (count.failed, count.lost) == (0, 0), f"{count}\n{load.why()}"
    assert count.submitted > 10, count
    assert load.broken_tries() == []
    assert watch.looks > 20
    assert len(watch.failures) <= in_flight, watch.failures


@pytest.fixture(scope="module", autouse=True)
def dags(api: Api) -> None:
    """Switch the DAGs on."""
    for dag in ("stream", "patient"):
        wait_until(lambda dag=dag: api.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})[0] == 200, 120)


def begin_patient(api: Api, load: Load, seconds: int) -> None:
    """Start a task that outlasts what comes."""
    run = load.start("patient", seconds=seconds)
    wait_until(lambda: [task["state"] for task in api.tasks(run)] == ["running"], 60)


def test_both_api_servers_are_used(cluster, web_url):
    before = {name: int(server["stot"]) for name, server in servers(cluster).items()}
    assert sorted(before) == sorted(CONTROL)
    for _ in range(10):
        assert status_of(f"{web_url}/api/v2/version") == 200
    after = servers(cluster)
    assert all(int(after[name]["stot"]) - count >= 5 for name, count in before.items())
    assert {server["status"] for server in after.values()} == {"UP"}


def test_new_settings_of_the_balancer_end_no_request(cluster, web_url):
    before = cluster.started()
    cluster.change("group_vars/all/haproxy.yml", "---\nhaproxy_maxconn: 3000\n")
    with Watch(web_url) as watch:
        cluster.play("playbooks/haproxy.yml")
        wait_until(lambda: "\nMaxconn: 3000\n" in haproxy(cluster, "show info"), 10)
    assert restarted(before, cluster.started()) == set()
    assert watch.looks > 4 and watch.failures == []
    assert changes(cluster.play("playbooks/haproxy.yml")) == 0


def test_settings_that_haproxy_refuses_change_nothing(cluster, web_url):
    cluster.change("group_vars/all/haproxy.yml", "---\nhaproxy_stream_timeout: 99999999\n")
    try:
        output = cluster.play("playbooks/haproxy.yml", succeeds=False)
    finally:
        cluster.change("group_vars/all/haproxy.yml", "---\nhaproxy_maxconn: 3000\n")
    assert "nothing was changed: /etc/haproxy/haproxy.cfg" in output
    assert status_of(f"{web_url}/api/v2/version") == 200
    assert changes(cluster.play("playbooks/haproxy.yml")) == 0


def test_restarts_lose_nothing(cluster, api, web_url):
    before = cluster.started()
    with Load(api, "") as load, Watch(web_url) as watch:
        begin_patient(api, load, 90)
        begun = datetime.now(tz=UTC)
        cluster.play("playbooks/restart.yml", "--limit", "control")
    count = load.count(begun, PATIENCE)
    units = ("airflow-api-server", "airflow-dag-processor", "airflow-scheduler", "airflow-triggerer")
    wanted = {f"{host}/{unit}" for host in CONTROL for unit in units} | {"control1/airflow-flower"}
    after = cluster.started()
    assert restarted(before, after) == wanted
    # Both hosts have the clock of the machine that they share.
    first, second = ([int(after[host, f"{unit}.service"]) for unit in units] for host in CONTROL)
    assert max(first) < min(second), "one host after the other"
    nothing_is_lost(load, count, watch)
    assert count.retried == 0


def test_a_rotation_loses_nothing(cluster, api, web_url):
    """The API servers restart three times, one after the other, and somebody who is logged in stays so."""
    old, before = cluster.secrets["airflow_fernet_key"], cluster.started()
    with Load(api, "") as load, Watch(web_url) as watch:
        begin_patient(api, load, 60)
        begun = datetime.now(tz=UTC)
        cluster.play("playbooks/rotate.yml", "-e", "secret=airflow_fernet_key")
    count = load.count(begun, PATIENCE)
    cluster.read_inventory()
    assert cluster.secrets["airflow_fernet_key"] != old
    assert {f"{host}/airflow-api-server" for host in CONTROL} <= restarted(before, cluster.started())
    nothing_is_lost(load, count, watch)
    assert count.retried == 0


@pytest.mark.parametrize("host", CONTROL)
def test_power_cut(host, cluster, api, web_url):
    with Watch(web_url) as watch:
        with Load(api, "") as load:
            begin_patient(api, load, AWAY + 15)
            begun = datetime.now(tz=UTC)
            podman(cluster, host, "kill")
            # How long it is away while more is asked for is what is tested.
            time.sleep(AWAY)
        count = load.count(begun, PATIENCE)
        assert podman(cluster, host, "inspect", "--format={{.State.Running}}") == "false"
        assert {name: server["status"] for name, server in servers(cluster).items()} == {
            **dict.fromkeys(CONTROL, "UP"),
            host: "DOWN",
        }
        named = cluster.play("playbooks/verify.yml", succeeds=False)
        seen = cluster.play("playbooks/verify.yml", "--limit", f"all:!{host}", succeeds=False)
        podman(cluster, host, "start")
        wait_until(lambda: booted(cluster, host) != "", 90)
        wait_until(lambda: servers(cluster)[host]["status"] == "UP", 120)
    assert f"connection to {host}" in named
    assert re.search(rf"{host}\W+DOWN", seen), seen
    nothing_is_lost(load, count, watch, in_flight=1)
    cluster.play("playbooks/verify.yml")


def own_balancer(cluster: Cluster, host: str, port: int) -> None:
    """Run a balancer as docs/network.md tells, which no role of the collection knows of."""
    page = (TOP / "docs/network.md").read_text()
    settings = page.partition("```haproxy\n")[2].partition("```")[0]
    for name, address in zip(CONTROL, ("10.20.1.11", "10.20.1.12"), strict=True):
        line = f"server {name} {address}:8080"
        assert settings.count(line) == 1
        settings = settings.replace(line, f"server {name} {cluster.address(name)}:8080")
    assert settings.count(f"bind :{port}\n") == 1
    cluster.host(host).check_output("echo %s > /etc/own-balancer.cfg", settings)
    cluster.host(host).check_output("systemd-run --unit own-balancer haproxy -W -f /etc/own-balancer.cfg")


def test_a_balancer_of_your_own(cluster):
    """Its address is that of the web UI, for tasks too; a control host restarts, the other loses its power."""
    host, port = cluster.members("load_balancers")[0], 8090
    address = cluster.address(host)
    own_balancer(cluster, host, port)
    hosts = INVENTORY / "hosts.yml"
    group = f"    load_balancers:\n      hosts:\n        {host}:\n"
    assert group in hosts.read_text()
    hosts.write_text(hosts.read_text().replace(group, ""))
    cluster.change(
        "group_vars/all/balancer.yml", f"---\ncluster_webserver_host: {address}\ncluster_balancer_port: {port}\n"
    )
    cluster.play("site.yml", *OWN_DAGS)
    assert not cluster.host(host).service("haproxy").is_running, "the collection's own is gone"
    cluster.play("playbooks/verify.yml")
    api = Api(f"http://{address}:{port}", "admin", cluster.secrets["airflow_admin_password"])
    with Load(api, "") as load, Watch(api.url) as watch:
        begin_patient(api, load, AWAY + 60)
        begun = datetime.now(tz=UTC)
        cluster.play("playbooks/restart.yml", "--limit", "control")
        assert watch.failures == []
        podman(cluster, CONTROL[1], "kill")
        # How long it is away while more is asked for is what is tested.
        time.sleep(AWAY)
    count = load.count(begun, PATIENCE)
    podman(cluster, CONTROL[1], "start")
    nothing_is_lost(load, count, watch, in_flight=1)
    wait_until(lambda: booted(cluster, CONTROL[1]) != "", 90)
    cluster.play("playbooks/verify.yml")
