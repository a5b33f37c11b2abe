#!/usr/bin/env python3
"""Measure site.yml and verify.yml against bench/floor.sh, on bare hosts of the lab `bench`: see README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / ".cache" / "bench"
PAGE = ROOT / "docs" / "benchmark.md"
NOTES = Path(__file__).with_name("slow_tasks.json")
BEGIN, END = "<!-- results: written by bench/run.py --document -->", "<!-- end of results -->"
# Hosts and a network of their own, for a benchmark that shall not meet another one.
LAB = os.environ.get("BENCH_LAB", "bench")
OVERLAY = f"lab/inventories/{LAB}.yml"
PLAYBOOK = str(ROOT / ".venv" / "bin" / "ansible-playbook")
INVENTORIES = ["-i", f".lab/{LAB}/inventory", "-i", OVERLAY]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_HOME": str(ROOT / ".ansible"),
    "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).with_name("callback_plugins")),
    "ANSIBLE_LOCALHOST_WARNING": "false",
    "ANSIBLE_NOCOLOR": "1",
}
SLOWEST = 10
# What is compared, in the order of the table: title, decimals, and the figure of one round.
ROWS: list[tuple[str, int, Callable[[dict[str, Any]], float]]] = [
    ("floor: bare hosts to converged, s", 1, lambda one: one["floor"]["converged"]),
    ("floor: bare hosts to verified, s", 1, lambda one: one["floor"]["verified"]),
    ("`site.yml`, first run, s", 1, lambda one: one["first"]["seconds"]),
    ("`verify.yml`, s", 1, lambda one: one["verify"]["seconds"]),
    ("bare hosts to verified: both, s", 1, lambda one: both(one)),
    ("`site.yml`, run without changes, s", 1, lambda one: one["second"]["seconds"]),
    ("first run / floor, to converged", 2, lambda one: one["first"]["seconds"] / one["floor"]["converged"]),
    ("both / floor, to verified", 2, lambda one: both(one) / one["floor"]["verified"]),
]
# (row, limit): what the project wants to stay within.
AIMS = [(6, 2.0, "First run at most 2 times the floor"), (5, 20.0, "Run without changes under 20 s")]


def both(one: dict[str, Any]) -> float:
    """Seconds of the first run and of the verification."""
    return float(one["first"]["seconds"] + one["verify"]["seconds"])


class BenchError(Exception):
    """A step that failed, with the place of its output."""


def say(text: str) -> None:
    """Tell the progress, apart from the report."""
    print(text, file=sys.stderr, flush=True)


def run(name: str, argv: list[str], **environment: str) -> dict[str, Any]:
    """Run one step with its output in a log of its own; return its seconds, its load and the log's text."""
    log = RESULTS / f"{name}.log"
    load = os.getloadavg()[0]
    start = time.monotonic()
    with log.open("w") as output:
        code = subprocess.run(
            argv, cwd=ROOT, env={**ENVIRONMENT, **environment}, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    seconds = round(time.monotonic() - start, 1)
    if code:
        raise BenchError(f"{name} failed ({code}): {log}")
    say(f"  {name}: {seconds} s (load before it {load:.1f})")
    return {"seconds": seconds, "load": round(load, 2), "output": log.read_text()}


def play(name: str, playbook: str, *arguments: str) -> dict[str, Any]:
    """Run one playbook and add the times of its tasks, what it changed, and on how many hosts."""
    times = RESULTS / f"{name}.json"
    argv = [PLAYBOOK, *INVENTORIES, playbook, *arguments]
    measured = run(name, argv, ANSIBLE_CALLBACKS_ENABLED="task_times", TASK_TIMES=str(times))
    found = json.loads(times.read_text())
    return {
        "seconds": measured["seconds"],
        "load": measured["load"],
        "changed": sum(host["changed"] for host in found["hosts"].values()),
        "hosts": sum(host["changed"] > 0 for host in found["hosts"].values()),
        "tasks": found["tasks"],
    }


def remove_lab(name: str) -> None:
    """Remove the lab, whatever is left of it."""
    run(name, [PLAYBOOK, "-i", OVERLAY, "lab/destroy.yml"])


@contextmanager
def bare_hosts(name: str) -> Iterator[None]:
    """Bare hosts and their secrets for the time of a measurement."""
    remove_lab(f"{name}-clean")
    try:
        run(f"{name}-inventory", ["lab/inventory.sh", LAB])
        run(f"{name}-create", [PLAYBOOK, *INVENTORIES, "lab/create.yml"])
        run(f"{name}-secrets", [PLAYBOOK, *INVENTORIES, "playbooks/secrets.yml"])
        yield
    finally:
        remove_lab(f"{name}-destroy")


def measure_floor(number: int) -> dict[str, Any]:
    """The marks of bench/floor.sh, on bare hosts."""
    with bare_hosts(f"{number}-floor-lab"):
        floor = run(f"{number}-floor", ["bench/floor.sh", LAB])
    marks = {what: float(at) for at, what in re.findall(r"^(\d+\.\d) (.+)$", floor["output"], re.MULTILINE)}
    return {"floor": {**marks, "load": floor["load"]}}


def measure_collection(number: int) -> dict[str, Any]:
    """The playbooks: first run on bare hosts, verification, run without changes.

    :raises BenchError: when the last one changes something.
    """
    with bare_hosts(f"{number}-lab"):
        first = play(f"{number}-first", "site.yml")
        verify = play(f"{number}-verify", "playbooks/verify.yml")
        second = play(f"{number}-second", "site.yml")
    if second["changed"]:
        raise BenchError(f"the second run changed {second['changed']} things: {RESULTS / f'{number}-second.log'}")
    return {"first": first, "verify": verify, "second": second}


def measure(number: int) -> dict[str, Any]:
    """One round: the floor and the collection, by turns the one or the other first."""
    say(f"round {number}")
    parts = [measure_floor, measure_collection]
    one: dict[str, Any] = {}
    for part in parts if number % 2 else parts[::-1]:
        one |= part(number)
    return one


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    commit = subprocess.run(
        ["/usr/bin/git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "time": time.strftime("%Y-%m-%d %H:%M %z"),
        "commit": commit,
        "cpus": os.cpu_count(),
        "model": model[1] if model else platform.machine(),
        "memory_gb": round(int(memory[1]) / 1048576) if memory else 0,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def table(head: dict[str, str], rows: list[list[str]]) -> str:
    """Markdown table; ``head`` gives each column its alignment."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), list(head.values()), *rows])


def summary(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median, minimum, maximum and rounds of each row; a ratio is taken in each round."""
    rows = []
    for title, decimals, figure in ROWS:
        values = [figure(one) for one in rounds]
        figures = [statistics.median(values), min(values), max(values), *values]
        rows.append({"title": title, "decimals": decimals, "figures": [round(value, decimals) for value in figures]})
    return rows


def slowest(rounds: list[dict[str, Any]], part: str) -> list[tuple[str, float, str, int]]:
    """The slowest tasks of the median run: name, seconds on the slowest host, that host, number of hosts."""
    ordered = sorted((one[part] for one in rounds), key=lambda one: one["seconds"])
    median = ordered[(len(ordered) - 1) // 2]
    by_task: dict[str, list[tuple[float, str]]] = {}
    for entry in median["tasks"]:
        by_task.setdefault(entry["task"], []).append((entry["seconds"], entry["host"]))
    found = [(task, *max(times), len(times)) for task, times in by_task.items()]
    return sorted(found, key=lambda one: one[1], reverse=True)[:SLOWEST]


def text(task: str) -> str:
    """Name of a task without the collection's name before its role."""
    return task.replace("dataops.airflow.", "").replace("|", "\\|")


def report(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    on, rows, rounds = results["machine"], results["summary"], results["rounds"]
    notes = json.loads(NOTES.read_text())
    numbers = [f"round {number + 1}" for number in range(len(rounds))]
    load = ", ".join(map(str, on["load"]))
    parts = [
        f"{on['time']}, commit {on['commit']}: {len(rounds)} round{'s' * (len(rounds) > 1)} "
        f"on {on['cpus']} CPUs ({on['model']}), {on['memory_gb']} GB; load average at the start {load}.",
        table(
            {"Figure": "---"} | dict.fromkeys(["median", "min", "max", *numbers], "---:"),
            [[row["title"], *[f"{value:.{row['decimals']}f}" for value in row["figures"]]] for row in rows]
            + [
                [f"load average before {title}", "", "", "", *[f"{one[part]['load']:.1f}" for one in rounds]]
                for title, part in (
                    ("the floor", "floor"),
                    ("the first run", "first"),
                    ("the run without changes", "second"),
                )
            ],
        ),
        "\n".join(
            f"- {title}: {rows[index]['figures'][0]}, {'met' if rows[index]['figures'][0] <= limit else 'missed'}."
            for index, limit, title in AIMS
        ),
    ]
    for part, title in (("first", "first run"), ("second", "run without changes")):
        parts += [
            f"### The slowest tasks of the {title}",
            table(
                {
                    "Task": "---",
                    "Seconds": "---:",
                    "Slowest host": "---",
                    "Hosts": "---:",
                    "What was done about it": "---",
                },
                [
                    [text(task), f"{seconds:.1f}", host, str(hosts), notes.get(text(task), "")]
                    for task, seconds, host, hosts in slowest(rounds, part)
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def document(page: Path, begin: str, end: str, content: str) -> None:
    """Write a report between two marks of a page.

    :raises BenchError: when the marks are not there.
    """
    whole = page.read_text()
    if not (begin in whole and end in whole):
        raise BenchError(f"{page} has no lines {begin} and {end}")
    before, rest = whole.split(begin, 1)
    page.write_text(f"{before}{begin}\n\n{content}\n{end}{rest.split(end, 1)[1]}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--document", action="store_true", help="write the results into docs/benchmark.md as well")
    parser.add_argument("--again", action="store_true", help="measure nothing: report the last results once more")
    options = parser.parse_args()
    file = RESULTS / "results.json"
    try:
        if not options.again:
            RESULTS.mkdir(parents=True, exist_ok=True)
            on = machine()
            rounds = [measure(number + 1) for number in range(options.rounds)]
            results = {"machine": on, "summary": summary(rounds), "rounds": rounds}
            file.write_text(json.dumps(results, indent=1) + "\n")
        results = json.loads(file.read_text())
        print(report(results), end="")
        if options.document:
            document(PAGE, BEGIN, END, report(results))
    except BenchError as problem:
        sys.exit(f"bench: {problem}")


if __name__ == "__main__":
    main()
