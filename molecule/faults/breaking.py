"""What can break below a running cluster, and how to break and mend it."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import TOP, Cluster, booted, podman, wait_until

WORKER = "worker1"
Breaks = Callable[[Cluster], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    ``breaks`` breaks something when it is entered and mends it when it is left, ``seconds`` later. ``kills`` says that
    tasks die with it: their DAGs have retries then. ``needs`` is entered before the first task.
    """

    name: str
    breaks: Breaks
    seconds: int = 0
    kills: bool = False
    needs: Breaks | None = None


def run(host: str, begin: str, end: str = "true") -> Breaks:
    """Run a command on a host, and another one afterwards."""

    @contextmanager
    def breaks(cluster: Cluster) -> Iterator[None]:
        cluster.host(host).check_output(begin)
        try:
            yield
        finally:
            cluster.host(host).check_output(end)

    return breaks


def stopped(host: str, unit: str) -> Breaks:
    """Stop a service and start it again."""
    return run(host, f"systemctl stop {unit}", f"systemctl start {unit}")


def killed(host: str, unit: str) -> Breaks:
    """Kill all processes of a service."""
    return run(host, f"systemctl kill --signal=KILL {unit}")


def power_cut(host: str) -> Breaks:
    """Take the power from a host."""

    @contextmanager
    def breaks(cluster: Cluster) -> Iterator[None]:
        podman(cluster, host, "kill")
        try:
            yield
        finally:
            podman(cluster, host, "start")

    return breaks


@contextmanager
def reboot(cluster: Cluster) -> Iterator[None]:
    """Reboot the control host, until it is there again."""
    before = booted(cluster, "control1")
    cluster.host("control1").run("systemd-run --on-active=1 systemctl reboot")
    wait_until(lambda: booted(cluster, "control1") not in ("", before), 90)
    yield


def cut(from_host: str, host: str, port: int) -> Breaks:
    """Drop every packet between a host and a port of another one, in silence, as a broken switch does."""

    @contextmanager
    def breaks(cluster: Cluster) -> Iterator[None]:
        inside = [
            "nsenter",
            "--net",
            "--target",
            podman(cluster, from_host, "inspect", "--format={{.State.Pid}}"),
            "iptables",
        ]
        peer = cluster.address(host)
        rules = [
            ["OUTPUT", "--destination", peer, "--protocol", "tcp", "--dport", str(port), "--jump", "DROP"],
            ["INPUT", "--source", peer, "--protocol", "tcp", "--sport", str(port), "--jump", "DROP"],
        ]
        for rule in rules:
            subprocess.run([*inside, "--insert", *rule], check=True)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run([*inside, "--delete", *rule], check=True)

    return breaks


@contextmanager
def clock_of_its_own(cluster: Cluster) -> Iterator[None]:
    """Start the worker with a clock that a file makes wrong: see files/clock.c."""
    source = Path(__file__).parent / "files" / "clock.c"
    with TemporaryDirectory() as folder:
        library = Path(folder) / "clock.so"
        subprocess.run([TOP / "lab" / "machine.sh", "gcc", "libc6-dev"], check=True)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        text = b64encode(library.read_bytes()).decode()
    drop_in = "/run/systemd/system/airflow-worker.service.d"
    worker = cluster.host(WORKER)
    restart = "systemctl daemon-reload && systemctl restart airflow-worker"
    worker.check_output(
        f"mkdir -p {drop_in} && echo {text} | base64 -d > /opt/clock.so &&"
        rf" printf '[Service]\nEnvironment=LD_PRELOAD=/opt/clock.so\n' > {drop_in}/clock.conf && {restart}"
    )
    try:
        yield
    finally:
        worker.check_output(f"rm -r {drop_in} && {restart} && rm /opt/clock.so")


# Told together with the proof that the worker's processes see it.
WRONG_CLOCK = (
    "touch /run/clock_is_wrong && grep -q /opt/clock.so"
    ' /proc/"$(systemctl show --value --property=MainPID airflow-worker)"/maps &&'
    ' [ "$(LD_PRELOAD=/opt/clock.so date +%s)" -ge "$(($(date +%s) + 59))" ]'
)
# A small file system over the worker's logs takes the place of a full disk: the host's own is the machine's.
INSIDE = 'nsenter --mount --target "$(systemctl show --value --property=MainPID airflow-worker)"'
FULL = (
    f"{INSIDE} mount -t tmpfs -o size=64k,mode=750,uid=airflow,gid=airflow tmpfs /var/lib/airflow/logs && "
    f"! {INSIDE} dd if=/dev/zero of=/var/lib/airflow/logs/full bs=64k count=2 2> /dev/null"
)
# Each time after it has been up for two seconds; that is often enough.
AGAIN = (
    "systemd-run --quiet --unit=again /bin/sh -c 'while sleep 2; do"
    " systemctl is-active --quiet redis-server && sleep 2 && systemctl kill --signal=KILL redis-server; done'"
)
ENOUGH = 'systemctl stop again && [ "$(systemctl show --value --property=NRestarts redis-server)" -ge 5 ]'


FAULTS = [
    Fault("worker: SIGKILL", killed(WORKER, "airflow-worker"), kills=True),
    Fault("worker's host: power cut for 20 s", power_cut(WORKER), 20, kills=True),
    Fault("scheduler: SIGKILL", killed("control1", "airflow-scheduler")),
    Fault("control host: reboot", reboot),
    Fault("API server: down for 20 s", stopped("control1", "airflow-api-server"), 20),
    Fault("API server: down for 60 s", stopped("control1", "airflow-api-server"), 60),
    Fault("Redis: restart", run("db1", "systemctl restart redis-server")),
    Fault("Redis: SIGKILL", killed("db1", "redis-server")),
    Fault("Redis: down for 60 s", stopped("db1", "redis-server"), 60),
    Fault("Redis: SIGKILL again and again for 60 s", run("db1", AGAIN, ENOUGH), 60),
    Fault("PostgreSQL: restart", run("db1", "systemctl restart 'postgresql@*'")),
    Fault("PostgreSQL: down for 30 s", stopped("db1", "postgresql@$(ls /etc/postgresql)-main"), 30),
    Fault("host of PostgreSQL and Redis: power cut for 20 s", power_cut("db1"), 20),
    Fault("network from the scheduler to Redis: cut for 30 s", cut("control1", "db1", 6379), 30),
    Fault("network from the control host to PostgreSQL: cut for 30 s", cut("control1", "db1", 5432), 30),
    Fault("network from a worker to Redis: cut for 30 s", cut(WORKER, "db1", 6379), 30),
    Fault("network from a worker to PostgreSQL: cut for 30 s", cut(WORKER, "db1", 5432), 30),
    Fault("network from a worker to the API server: cut for 30 s", cut(WORKER, "control1", 8080), 30),
    Fault(
        "worker: disk full for 30 s",
        run(WORKER, FULL, f"{INSIDE} umount --lazy /var/lib/airflow/logs"),
        30,
    ),
    Fault(
        "worker: clock a minute fast for 60 s",
        run(WORKER, WRONG_CLOCK, "rm /run/clock_is_wrong"),
        60,
        needs=clock_of_its_own,
    ),
]
