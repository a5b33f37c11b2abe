"""Every port of the cluster is open to those who need it, in this order: as it is, changed, grown, shrunk.

An outsider looks at all ports of all hosts; what counts is what a connection from there, or from a member, comes to.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from datetime import datetime

import pytest
from conftest import INVENTORY, OWN_DAGS, Cluster, booted, changes, restarted, status_of, wait_until

HOSTS = ("db1", "control1", "worker1", "worker2")
TABLE = "inet dataops_airflow"
UNIT = "dataops-airflow-firewall"
# What a host of the group listens on.
CLOSED = {"db1": {5432, 6379}, "control1": {8794, 8974}, "worker1": {8793}, "worker2": {8793}, "worker3": {8793}}
OPEN = {"control1": {5555, 8080}}
EVERY = {port for ports in (*CLOSED.values(), *OPEN.values()) for port in ports}

# Tries to connect to ports of an address: those that answer, and those that say nothing; the others refuse.
SCAN = """
import errno, json, select, socket, sys, time
address, ports = sys.argv[1], [port for part in sys.argv[2:] for first, _, last in [part.partition('-')]
                               for port in range(int(first), int(last or first) + 1)]
found = {'open': [], 'silent': []}
for start in range(0, len(ports), 500):
    waiting, poll = {}, select.poll()
    for port in ports[start:start + 500]:
        probe = socket.socket()
        probe.setblocking(False)
        if probe.connect_ex((address, port)) in (0, errno.EINPROGRESS):
            waiting[probe.fileno()] = port, probe
            poll.register(probe, select.POLLOUT)
    end = time.monotonic() + 3
    while waiting and (left := end - time.monotonic()) > 0:
        for number, _ in poll.poll(left * 1000):
            port, probe = waiting.pop(number)
            poll.unregister(number)
            if not probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                found['open'].append(port)
            probe.close()
    found['silent'] += [port for port, _ in waiting.values()]
print(json.dumps(found))
"""


def scan(cluster: Cluster, whence: str, host: str, *ports: str) -> dict[str, set[int]]:
    """What a host finds at ports of another: `open`, and `silent` where it gets no answer."""
    command = "python3 -c %s " + cluster.address(host) + " " + " ".join(ports or ("1-65535",))
    found = json.loads(cluster.host(whence).check_output(command, SCAN))
    return {name: set(numbers) for name, numbers in found.items()}


def reaches(cluster: Cluster, whence: str, host: str) -> set[int]:
    """Those of the cluster's ports at which a host gets through to another."""
    return scan(cluster, whence, host, *map(str, sorted(EVERY)))["open"]


def rules(cluster: Cluster, host: str) -> str:
    """The rules in force on a host, as the kernel tells them."""
    return str(cluster.host(host).run(f"nft --stateless list table {TABLE}").stdout)


class Knock:
    """Somebody who connects to SSH five times a second, and notes what goes wrong."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers = 0
        self.failures: list[str] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.knock)

    def __enter__(self) -> Knock:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def knock(self) -> None:
        """Read SSH's greeting until it is over."""
        while not self.over.wait(0.2):
            try:
                with socket.create_connection((self.address, 22), 5) as server:
                    server.settimeout(10)
                    said = server.recv(4)
                if said == b"SSH-":
                    self.answers += 1
                else:
                    self.failures.append(repr(said))
            except OSError as problem:
                self.failures.append(str(problem))


@pytest.mark.parametrize("host", HOSTS)
def test_services_listen_where_they_must(host, cluster):
    own, address = {"db1": {5432, 6379}, "control1": {5555}}, cluster.address(host)
    wanted = {("*", 22), *((address, port) for port in own.get(host, ()))}
    wanted |= {("loopback", port) for port in {"db1": {5432, 6379}, "control1": {8974}}.get(host, ())}
    wanted |= {("*", port) for port in {"control1": {8080, 8794}}.get(host, {8793} if "worker" in host else ())}
    lines = cluster.host(host).check_output("ss --listening --tcp --numeric --no-header | awk '{print $4}'").split()
    names = {"0.0.0.0": "*", "[::]": "*", "127.0.0.1": "loopback", "[::1]": "loopback"}
    heard = {(names.get(place, place), int(port)) for place, _, port in (line.rpartition(":") for line in lines)}
    assert heard == wanted


@pytest.mark.parametrize("host", HOSTS)
def test_an_outsider_finds_ssh_and_what_is_configured(host, cluster):
    found = scan(cluster, "outsider1", host)
    assert found == {"open": {22} | OPEN.get(host, set()), "silent": CLOSED[host]}


@pytest.mark.parametrize(
    ("whence", "host", "ports"),
    [
        ("worker1", "db1", {5432, 6379}),
        ("control1", "db1", {5432, 6379}),
        ("worker1", "worker2", set()),
        ("db1", "worker2", set()),
        ("control1", "worker2", {8793}),
        ("worker1", "control1", {5555, 8080}),
        ("control1", "control1", {5555, 8080, 8794}),
    ],
)
def test_members_reach_what_they_need(whence, host, ports, cluster):
    assert reaches(cluster, whence, host) == ports


def test_what_is_not_of_the_cluster_stays_as_it_is(cluster):
    """Nothing else listens there, but what somebody starts is not hidden by our rules."""
    assert "outsider1" not in {host for host in HOSTS if rules(cluster, host) == ""}
    assert not cluster.host("outsider1").file("/etc/nftables-airflow.conf").exists
    db1 = cluster.host("db1")
    db1.check_output("nft add table inet site && nft add chain inet site own { type filter hook input priority 5\\; }")
    db1.check_output("nft add rule inet site own tcp dport 4711 drop")
    site = db1.check_output("nft list table inet site")
    db1.check_output("systemd-run --unit=own python3 -m http.server 4712")
    wait_until(lambda: scan(cluster, "outsider1", "db1", "4711-4713") == {"open": {4712}, "silent": {4711}}, 20)
    assert changes(cluster.play("playbooks/firewall.yml")) == 0
    assert db1.check_output("nft list table inet site") == site
    db1.check_output("systemctl stop own")


@pytest.mark.parametrize(
    "edit",
    [
        f"flush chain {TABLE} input",
        f"insert rule {TABLE} input accept",
        f"add element {TABLE} hosts4 {{ 10.203.31.19 . 5432 }}",
        f"delete table {TABLE}",
        "flush ruleset",
    ],
)
def test_rules_edited_by_hand_are_mended(edit, cluster):
    before = rules(cluster, "db1")
    cluster.host("db1").check_output(f"nft '{edit}'")
    assert 5432 in reaches(cluster, "outsider1", "db1")
    output = cluster.play("playbooks/firewall.yml", "--check")
    assert changes(output) == 1, "a check tells"
    assert 5432 in reaches(cluster, "outsider1", "db1"), "and mends nothing"
    if edit == "flush ruleset":
        output = cluster.play("playbooks/verify.yml", succeeds=False)
        for word in ("ports on db1 are not those of the last run", "remedy:"):
            assert word in output, word
    assert changes(cluster.play("playbooks/firewall.yml")) == 1
    assert rules(cluster, "db1") == before
    assert reaches(cluster, "outsider1", "db1") == set()
    assert changes(cluster.play("playbooks/firewall.yml")) == 0


def test_a_file_edited_by_hand_is_mended(cluster):
    before = rules(cluster, "db1")
    cluster.host("db1").check_output("sed -i '/# worker1$/d' /etc/nftables-airflow.conf")
    cluster.play("playbooks/firewall.yml")
    assert rules(cluster, "db1") == before
    assert changes(cluster.play("playbooks/firewall.yml")) == 0


@pytest.mark.parametrize("command", ["start", "reload", "restart"])
def test_the_rules_outlive_those_of_the_distribution(command, cluster):
    """Debian's unit begins with `flush ruleset`."""
    before = rules(cluster, "worker1")
    cluster.host("worker1").check_output(f"systemctl {command} nftables")
    if command == "start":
        cluster.host("worker1").check_output(f"systemctl reload-or-restart {UNIT}")
    wait_until(lambda: rules(cluster, "worker1") == before, 10)
    assert reaches(cluster, "outsider1", "worker1") == set()


def test_sources_of_the_ui_and_of_flower(cluster, api):
    """Connections that are open go on, and SSH answers all the time."""
    connections = "ss --no-header --tcp --numeric state established '( sport = :5432 or sport = :6379 )'"
    before, started = cluster.host("db1").check_output(f"{connections} | sort").splitlines(), cluster.started()
    running = api.start_dag("parallel_dag")
    outsider = cluster.address("outsider1")
    cluster.change(
        "group_vars/all/firewall.yml",
        f"---\nfirewall_flower_sources: [{outsider}]\n"
        "firewall_webserver_sources: [10.203.31.1]\nfirewall_redis_sources: [10.203.31.16/30]\n",
    )
    with Knock(cluster.address("control1")) as control, Knock(cluster.address("db1")) as database:
        cluster.play("playbooks/firewall.yml")
    for knock in (control, database):
        assert knock.answers > 5 and knock.failures == []
    assert reaches(cluster, "outsider1", "control1") == {5555}
    assert reaches(cluster, "outsider1", "db1") == {6379}
    assert reaches(cluster, "worker1", "control1") == {8080}, "tasks still reach the API"
    wait_until(lambda: api.ask("GET", running)[1]["state"] == "success", 90)
    assert {task["try_number"] for task in api.tasks(running)} == {1}
    after = cluster.host("db1").check_output(f"{connections} | sort").splitlines()
    assert len(before) > 5
    places = [{line.split()[-1] for line in lines} for lines in (before, after)]
    assert len(places[0] & places[1]) > len(places[0]) // 2, "of a pool of connections, some may come and go"
    assert restarted(started, cluster.started()) == set()


def test_what_nft_refuses_changes_nothing(cluster):
    text = (INVENTORY / "group_vars/all/firewall.yml").read_text()
    cluster.change("group_vars/all/firewall.yml", "---\nfirewall_webserver_sources: [control1]\n")
    try:
        output = cluster.play("playbooks/firewall.yml", succeeds=False)
    finally:
        cluster.change("group_vars/all/firewall.yml", text)
    for word in ("firewall_webserver_sources", "IP addresses and networks", "remedy:"):
        assert word in output, word
    assert changes(output) == 0


def test_a_new_worker_alone_is_let_in(cluster, api):
    """With the web UI closed to others, so that it is let in to all three servers, on hosts that the run leaves out."""
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("        worker2:\n", "        worker2:\n        worker3:\n"))
    cluster.read_inventory()
    cluster.play("lab/create.yml")
    assert reaches(cluster, "worker3", "db1") == set()
    before = cluster.started()
    cluster.play("site.yml", "--limit", "worker3")
    assert restarted(before, cluster.started()) == {"worker3/airflow-worker"}
    assert reaches(cluster, "worker3", "db1") == {5432, 6379}
    assert reaches(cluster, "worker3", "control1") == {8080}
    assert reaches(cluster, "outsider1", "worker3") == set()
    assert reaches(cluster, "control1", "worker3") == {8793}
    assert changes(cluster.play("site.yml", "--limit", "worker3")) == 0
    # Its tasks run, their results are stored, and their logs are read.
    cluster.play("playbooks/verify.yml")
    # What was added is what a run over the servers writes.
    assert changes(cluster.play("playbooks/firewall.yml")) == 0


def test_an_admission_that_was_not_put_into_force_is(cluster):
    """As after a run that ended between the two."""
    db1 = cluster.host("db1")
    db1.check_output(f"nft flush set {TABLE} hosts4")
    assert reaches(cluster, "worker3", "db1") == set()
    cluster.play("site.yml", "--limit", "worker3")
    assert reaches(cluster, "worker3", "db1") == {5432, 6379}


def test_a_worker_that_leaves_by_an_edit_stops_before_the_ports_close(cluster, api):
    """Its last task succeeds, and it is gone soon after: it does not wait for a broker that answers no more."""
    cluster.play("playbooks/dags.yml", *OWN_DAGS)
    run = api.start_dag("leaving")
    wait_until(lambda: [task["state"] for task in api.tasks(run)] == ["running"], 60)
    hosts = INVENTORY / "hosts.yml"
    text = hosts.read_text()
    left = text.replace("        worker3:\n", "").replace(
        "        outsider1:\n", "        outsider1:\n        worker3:\n"
    )
    hosts.write_text(left)
    try:
        cluster.play("site.yml", *OWN_DAGS)
        assert reaches(cluster, "worker3", "db1") == reaches(cluster, "worker3", "control1") == set()
        (task,) = api.tasks(run)
        assert (task["state"], task["try_number"]) == ("success", 1)
        assert "rested on worker3" in json.dumps(api.ask("GET", f"{run}/taskInstances/rest/logs/1")[1])
        worker = cluster.host("worker3")
        journal = worker.check_output("journalctl --unit=airflow-worker --output=short-unix --no-pager")
        stopped = float([line for line in journal.splitlines() if "Deactivated successfully" in line][-1].split()[0])
        assert stopped - datetime.fromisoformat(task["end_date"]).timestamp() < 30
        assert not worker.file("/etc/systemd/system/airflow-worker.service").exists
        assert changes(cluster.play("site.yml", *OWN_DAGS)) == 0
    finally:
        hosts.write_text(text)
    cluster.play("site.yml", "--limit", "worker3", *OWN_DAGS)
    assert reaches(cluster, "worker3", "db1") == {5432, 6379}


def test_rules_are_there_after_a_reboot(cluster):
    before, then = rules(cluster, "db1"), booted(cluster, "db1")
    cluster.host("db1").run("systemctl reboot")
    wait_until(lambda: booted(cluster, "db1") not in ("", then), 90)
    wait_until(lambda: cluster.host("db1").service(UNIT).is_running, 30)
    assert rules(cluster, "db1") == before
    assert reaches(cluster, "outsider1", "db1") == {6379}
    assert changes(cluster.play("playbooks/firewall.yml")) == 0


def test_a_worker_that_was_taken_out_is_shut_out(cluster, api):
    cluster.play("playbooks/worker_remove.yml", "-e", "worker=worker3", "-e", "confirm=true")
    for host in ("db1", "control1"):
        assert reaches(cluster, "worker3", host) == set()
        assert "worker3" not in cluster.host(host).file("/etc/nftables-airflow.conf").content_string
    assert rules(cluster, "worker3") == "" and not cluster.host("worker3").file("/etc/nftables-airflow.conf").exists
    hosts = INVENTORY / "hosts.yml"
    hosts.write_text(re.sub(r"(?m)^ +worker3:\n", "", hosts.read_text()))
    cluster.read_inventory()
    cluster.play("site.yml")
    assert reaches(cluster, "worker1", "db1") == {5432, 6379}
    assert changes(cluster.play("site.yml")) == 0


def test_switched_off_and_on_again(cluster, web_url):
    off = ("-e", "cluster_firewall=false")
    assert changes(cluster.play("playbooks/firewall.yml", "--check", *off)) == 2 * len(HOSTS)
    cluster.play("playbooks/firewall.yml", *off)
    for host in HOSTS:
        assert rules(cluster, host) == ""
        assert (
            cluster.host(host).run("ls /etc/nftables-airflow.conf /etc/systemd/system/*/dataops* /run/dataops*").stdout
            == ""
        )
        assert cluster.host(host).run(f"systemctl cat {UNIT}").rc != 0
    assert reaches(cluster, "outsider1", "db1") == {5432, 6379}
    assert changes(cluster.play("playbooks/firewall.yml", *off)) == 0
    cluster.play("playbooks/firewall.yml")
    assert reaches(cluster, "outsider1", "db1") == {6379}
    cluster.change("group_vars/all/firewall.yml", "---\n")
    cluster.play("playbooks/firewall.yml")
    assert reaches(cluster, "outsider1", "db1") == set()
    assert status_of(f"{web_url}/api/v2/version") == 200


def test_a_host_that_leaves_the_groups_loses_its_rules(cluster):
    """Of the example's four hosts none can be spared: an outsider becomes a triggerer, and leaves again."""
    hosts = INVENTORY / "hosts.yml"
    text = hosts.read_text()
    grown = text.replace("triggerers: {children: {control: {}}}", "triggerers: {hosts: {control1: {}, outsider1: {}}}")
    assert grown != text
    hosts.write_text(grown)
    try:
        cluster.play("playbooks/firewall.yml")
        assert "8794" in rules(cluster, "outsider1")
        assert reaches(cluster, "outsider1", "db1") == {5432}
    finally:
        hosts.write_text(text)
    cluster.play("playbooks/firewall.yml")
    assert rules(cluster, "outsider1") == ""
    assert reaches(cluster, "outsider1", "db1") == set()
