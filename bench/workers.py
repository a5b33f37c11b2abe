#!/usr/bin/env python3
"""Measure how a cluster of 1 to 8 workers takes one in, lets it go, and is run without changes, on the lab `bench`.

usage: bench/workers.py [--document]
"""

from __future__ import annotations

import argparse
import resource

import yaml
from run import (
    INVENTORIES,
    LAB,
    OVERLAY,
    PLAYBOOK,
    RESULTS,
    ROOT,
    BenchError,
    bare_hosts,
    document,
    machine,
    play,
    run,
    table,
)

PAGE = ROOT / "docs" / "workers.md"
BEGIN, END = "<!-- results: written by bench/workers.py --document -->", "<!-- end of results -->"
HOSTS = ROOT / ".lab" / LAB / "inventory" / "hosts.yml"
NETWORK = yaml.safe_load((ROOT / OVERLAY).read_text())["all"]["vars"]["lab_network"]
SIZES = (1, 2, 4, 8)
"""Numbers of workers with which a run without changes is measured."""
ALONE = (3, 8)
"""Workers that join alone, by --limit, before the run over all hosts that tells the others."""

Figures = dict[str, float]


def timed(name: str, playbook: str, *arguments: str) -> Figures:
    """Run a playbook; its seconds, the CPU seconds of the control node, and the number of hosts that it changed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    played = play(name, playbook, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": played["seconds"], "cpu": round(cpu, 1), "hosts": played["hosts"], "changed": played["changed"]}


def workers(count: int) -> None:
    """Write so many workers into the inventory, and start the hosts that are missing."""
    inventory = yaml.safe_load(HOSTS.read_text())
    addresses = {f"worker{number}": {"ansible_host": f"{NETWORK}.{12 + number}"} for number in range(1, count + 1)}
    inventory["all"]["children"]["workers"]["hosts"] = addresses
    HOSTS.write_text(yaml.safe_dump(inventory))
    run(f"workers-{count}-create", [PLAYBOOK, *INVENTORIES, "lab/create.yml"])


def measure() -> dict[str, Figures]:
    """Every step by its title.

    :raises BenchError: when a run without changes changes something.
    """
    found: dict[str, Figures] = {}
    with bare_hosts("workers"):
        for count in range(1, SIZES[-1] + 1):
            workers(count)
            if count in ALONE:
                title = f"`site.yml --limit worker{count}`, which adds it"
                found[title] = timed(f"workers-{count}-limit", "site.yml", "--limit", f"worker{count}")
                title = f"`site.yml` afterwards, {count} workers"
                found[title] = timed(f"workers-{count}-rest", "site.yml")
            else:
                title = f"`site.yml`, which adds worker{count}" if count > 1 else "`site.yml`, first run, 1 worker"
                found[title] = timed(f"workers-{count}-add", "site.yml")
            if count in SIZES:
                title = f"`site.yml` without changes, {count} worker{'s' * (count > 1)}"
                found[title] = timed(f"workers-{count}-same", "site.yml")
                if found[title]["changed"]:
                    raise BenchError(f"{title} changed {found[title]['changed']:.0f} things: see {RESULTS}")
        last = SIZES[-1]
        leaves = ("-e", f"worker=worker{last}", "-e", "confirm=true")
        title = f"`worker_remove.yml`, worker{last} of {last}, idle"
        found[title] = timed("workers-remove", "playbooks/worker_remove.yml", *leaves)
    return found


def report(found: dict[str, Figures]) -> str:
    """The table, and the slope of a run without changes."""
    facts = machine()
    head = {"Run": "---", "Seconds": "---:", "CPU seconds of the control node": "---:", "Hosts changed": "---:"}
    lines = [
        [title, f"{one['seconds']:.1f}", f"{one['cpu']:.1f}", f"{one['hosts']:.0f}"] for title, one in found.items()
    ]
    few, many = (
        next(one for title, one in found.items() if title.startswith(f"`site.yml` without changes, {size} "))
        for size in (SIZES[0], SIZES[-1])
    )
    slope = {name: (many[name] - few[name]) / (SIZES[-1] - SIZES[0]) for name in ("seconds", "cpu")}
    return (
        f"{facts['time']}, commit {facts['commit']}, {facts['cpus']} CPUs ({facts['model']}) shared by control node and"
        f" hosts.\n\n{table(head, lines)}\n\nOne more worker makes a run without changes {slope['seconds']:.1f} s"
        f" longer, and costs the control node {slope['cpu']:.1f} CPU seconds.\n"
    )


def main() -> None:
    """Measure, report, document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--document", action="store_true", help=f"write the report into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = report(measure())
    print(text)
    if options.document:
        document(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
