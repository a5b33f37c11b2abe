"""A DAG that looks for what is not meant for it: when it is parsed, and when it runs on worker1."""

from __future__ import annotations

import json
import os
from pathlib import Path

from airflow.sdk import DAG, task

SECRETS = (
    "/etc/airflow/*.env",
    "/etc/airflow/*/kept*",
    "/etc/shadow",
    "/etc/gshadow",
    "/root/.ssh/*",
    "/etc/redis/*",
    "/etc/ssh/*_key",
)
PLACES = ("/etc/airflow", "/etc/systemd/system", "/opt/airflow", "/opt/airflow/current/bin", "/usr/local/bin", "/root")
IMPORTED = ("config", "plugins")
"""Folders in Airflow's home whose content every component imports when it starts."""


def environments() -> set[str]:
    """Names of the variables in the environments that it can read, of its own and of other processes."""
    found: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found |= {entry.partition(b"=")[0].decode() for entry in path.read_bytes().split(b"\0")}
        except OSError:
            continue
    return found


def units() -> list[str]:
    """Units with a process whose environment it may open, be that overwritten or not."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            path.read_bytes()
            found.add(path.with_name("cgroup").read_text().strip().rpartition("/")[2])
        except OSError:
            continue
    return sorted(found)


def spy() -> dict[str, list[str]]:
    """What could be read and written, by name."""
    opened, written = [], []
    for path in (path for pattern in SECRETS for path in Path("/").glob(pattern[1:])):
        try:
            path.read_bytes()
        except OSError:
            continue
        opened.append(str(path))
    for place in (*PLACES, *(f"{os.environ['AIRFLOW_HOME']}/{name}" for name in IMPORTED)):
        try:
            Path(place).mkdir(exist_ok=True)
            Path(place, "spy").touch()
        except OSError:
            continue
        written.append(place)
    variables = sorted(name for name in environments() if name.startswith("AIRFLOW__"))
    return {"opened": opened, "written": written, "variables": variables, "units": units()}


with DAG("spy", schedule=None, doc_md=json.dumps(spy())):

    @task(queue="worker1")
    def look() -> dict[str, list[str]]:
        """Look from a running task."""
        return spy()

    look()
