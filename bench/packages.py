#!/usr/bin/env python3
"""Measure what packages cost, on the lab `bench`: a check, one more package, the way back, and other ways to do it.

usage: bench/packages.py [--rounds N] [--document]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from run import LAB, RESULTS, ROOT, bare_hosts, document, machine, play, say, table

PAGE = ROOT / "docs" / "packages.md"
BEGIN, END = "<!-- results: written by bench/packages.py --document -->", "<!-- end of results -->"
HOSTS = ("control1", "worker1", "worker2")
INSTALL = "Install the packages of the lock into their own release folder"
FINGERPRINT = "Take the fingerprint of the packages"
SETTINGS = ROOT / ".lab" / LAB / "inventory" / "group_vars" / "all" / "zzz_bench.yml"
SSH = ["ssh", "-F", str(ROOT / ".lab" / LAB / "ssh_config")]
TRUST = "export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt;"
RELEASE = "$(readlink -f /opt/airflow/current)"

Figures = dict[str, float]
# What is shown: title, decimals, figure of one round.
ROWS: list[tuple[str, int, Callable[[Figures], float]]] = [
    ("no change: the check of the packages, slowest host, s", 2, lambda one: one["check"]),
    ("no change: whole `site.yml`, s", 1, lambda one: one["check_site"]),
    ("start gate, whole process, s", 2, lambda one: one["gate"]),
    ("deep fingerprint in `verify.yml`, slowest host, s", 1, lambda one: one["deep"]),
    ("one more package: `lock.yml`, s", 1, lambda one: one["lock"]),
    ("one more package: install, first host done, s", 1, lambda one: one["add_first"]),
    ("one more package: install, second host done, s", 1, lambda one: one["add_second"]),
    ("one more package: install, last host done, s", 1, lambda one: one["add_last"]),
    ("one more package: whole `site.yml`, restarts included, s", 1, lambda one: one["add_site"]),
    ("`rollback.yml`, restarts included, s", 1, lambda one: one["rollback"]),
    ("`pip install --no-deps -r` with the same lock on every host at once, s", 1, lambda one: one["pip"]),
    ("the same with this collection's installer on every host at once, s", 1, lambda one: one["sync"]),
    ("built on one host, the tree shipped to the two others with `gzip -1`, s", 1, lambda one: one["ship"]),
    ("`pip install -r` / ours", 2, lambda one: one["pip"] / one["sync"]),
    ("shipped tree / ours", 2, lambda one: one["ship"] / one["sync"]),
]


def on(host: str, command: str, stdin: Any = None, stdout: Any = subprocess.DEVNULL) -> None:
    """Run a shell command on a host."""
    done = subprocess.run([*SSH, host, command], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed on {host}:\n{done.stderr.decode()}")


def everywhere(command: str) -> float:
    """Seconds until a command has ended on all hosts, started on all of them at once."""
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: on(host, command), HOSTS))
    return round(time.monotonic() - start, 1)


def task_times(played: Mapping[str, Any], task: str) -> list[float]:
    """Seconds of a task by host, the fastest first."""
    return sorted(one["seconds"] for one in played["tasks"] if one["task"].endswith(task))


def sync(target: str) -> str:
    """The steps of the module `release`, as one shell command."""
    uv = "/opt/airflow/uv/uv-*"
    return (
        f"{TRUST} export UV_CACHE_DIR={target}.cache; rm -rf {target}* && {uv} venv -q --relocatable --python"
        f" /usr/bin/python3 {target} && {uv} pip sync -q --python {target} --require-hashes --only-binary=:all:"
        f" --compile-bytecode {RELEASE}/lock.txt && rm -rf {target}.cache"
    )


def ship() -> float:
    """Seconds to build on one host and to ship the tree, through this machine, to the two others."""
    target, packed = "/opt/airflow/shipped", RESULTS / "tree.tar.gz"
    pack = f"tar --use-compress-program='gzip -1' --directory {Path(target).parent}"
    start = time.monotonic()
    on(HOSTS[0], sync(target))
    with packed.open("wb") as file:
        on(HOSTS[0], f"{pack} --create {Path(target).name}", stdout=file)

    def receive(host: str) -> None:
        with packed.open("rb") as file:
            on(host, f"{pack} --extract", stdin=file)

    with ThreadPoolExecutor() as pool:
        list(pool.map(receive, HOSTS[1:]))
    packed.unlink()
    return round(time.monotonic() - start, 1)


def compare(number: int) -> Figures:
    """Seconds of each way to install the same lock on all hosts; every second round the other way round."""
    # Debian's pip resolves a lock anew, and stumbles over the extras in it: hence --no-deps.
    pip = "python3 -m venv --clear /opt/pip && /opt/pip/bin/pip install -q --no-cache-dir --no-deps --only-binary :all:"
    ways: dict[str, Callable[[], float]] = {
        "pip": lambda: everywhere(f"{TRUST} {pip} --require-hashes -r {RELEASE}/lock.txt"),
        "sync": lambda: everywhere(sync("/opt/airflow/again")),
        "ship": ship,
    }
    names = list(ways) if number % 2 else list(ways)[::-1]
    return {name: ways[name]() for name in names}


def measure(number: int) -> Figures:
    """One round, on new hosts."""
    say(f"round {number}")
    with bare_hosts(f"p{number}-lab"):
        play(f"p{number}-first", "site.yml")
        check = play(f"p{number}-check", "site.yml")
        verify = play(f"p{number}-verify", "playbooks/verify.yml")
        gate = time.monotonic()
        on("worker1", "python3 -I -S /opt/airflow/fingerprint.py /opt/airflow/current /etc/airflow/release /bin/true")
        gate = time.monotonic() - gate
        plain = time.monotonic()
        on("worker1", "/bin/true")
        plain = time.monotonic() - plain
        SETTINGS.write_text("---\nairflow_requirements: [titlecase]\n")
        lock = play(f"p{number}-lock", "playbooks/lock.yml")
        add = play(f"p{number}-add", "site.yml")
        on("worker1", "/opt/airflow/current/bin/python -c 'import titlecase'")
        rollback = play(f"p{number}-rollback", "playbooks/rollback.yml")
        seconds = compare(number)
    added = task_times(add, INSTALL)
    return {
        "check": task_times(check, INSTALL)[-1],
        "check_site": check["seconds"],
        "gate": round(gate - plain, 3),
        "deep": task_times(verify, FINGERPRINT)[-1],
        "lock": lock["seconds"],
        "add_first": added[0],
        "add_second": added[1],
        "add_last": added[-1],
        "add_site": add["seconds"],
        "rollback": rollback["seconds"],
        **seconds,
    }


def report(rounds: list[Figures]) -> str:
    """The table, as Markdown."""
    facts = machine()
    lines = []
    for title, decimals, figure in ROWS:
        values = [figure(one) for one in rounds]
        lines.append([title, *(f"{value:.{decimals}f}" for value in (statistics.median(values), *values))])
    head = {"Figure": "---", "median": "---:", **{f"round {n + 1}": "---:" for n in range(len(rounds))}}
    about = f"{facts['time']}, commit {facts['commit']}, {facts['cpus']} CPUs ({facts['model']}) shared by four hosts."
    return f"{about}\n\n{table(head, lines)}\n"


def main() -> None:
    """Measure, report, document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--document", action="store_true", help=f"write the report into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = report([measure(number + 1) for number in range(options.rounds)])
    print(text)
    if options.document:
        document(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
