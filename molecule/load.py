"""Tasks that are submitted while something breaks, and what came of each."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from conftest import Api

FINAL = ("success", "failed")


class Count(NamedTuple):
    """What came of the tasks that were submitted under a fault."""

    submitted: int
    first_try: int
    retried: int
    failed: int
    lost: int
    retried_within: float
    died_on: list[str]


class Load:
    """Runs of DAGs that are submitted one after the other; what the API server did not take is not there to be lost."""

    def __init__(self, api: Api, suffix: str) -> None:
        self.api = api
        self.suffix = suffix
        self.runs: list[str] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.submit)

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def submit(self) -> None:
        """Start some short tasks every four seconds."""
        while not self.over.wait(4):
            self.start(f"stream{self.suffix}")

    def start(self, dag: str, **parameters: Any) -> str:
        """Start a run; an empty string where the API server did not take it."""
        status, run = answer(
            self.api, "POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "conf": parameters}
        )
        if status != 200:
            return ""
        path = f"/api/v2/dags/{dag}/dagRuns/{quote(run['dag_run_id'], safe='')}"
        self.runs.append(path)
        return path

    def count(self, since: datetime, patience: float) -> Count:
        """Wait until every run is over, at most for some seconds, and count."""
        left, deadline = list(self.runs), time.monotonic() + patience
        while left and time.monotonic() < deadline:
            left = [run for run in left if answer(self.api, "GET", run)[1].get("state") not in FINAL]
            time.sleep(1)
        tasks = [task for run in self.runs for task in self.api.tasks(run)]
        good = [task for task in tasks if task["state"] == "success"]
        again = [task for task in good if task["try_number"] > 1]
        failed = [task for task in tasks if task["state"] in ("failed", "upstream_failed")]
        waits = [(datetime.fromisoformat(task["start_date"]) - since).total_seconds() for task in again]
        lost = len(tasks) - len(good) - len(failed)
        where = sorted({one["hostname"] for one in self.broken_tries()})
        return Count(len(tasks), len(good) - len(again), len(again), len(failed), lost, max(waits, default=0.0), where)

    def broken_tries(self) -> list[dict[str, Any]]:
        """Tries that began and did not end well, of all tasks. One that no worker was told of never began."""
        found = []
        for run, task in self.troubled():
            path = f"{run}/taskInstances/{task['task_id']}/{task['map_index']}/tries"
            tries = self.api.ask("GET", path)[1]["task_instances"]
            found += [one for one in tries if one["start_date"] and one["state"] != "success"]
        return found

    def troubled(self) -> list[tuple[str, dict[str, Any]]]:
        """Each task that did not succeed at once, with the path of its run."""
        tasks = [(run, task) for run in self.runs for task in self.api.tasks(run)]
        return [(run, task) for run, task in tasks if task["try_number"] > 1 or task["state"] != "success"]

    def why(self) -> str:
        """What Airflow noted of each task that did not succeed at once, and the end of the log of its last try."""
        told = []
        for run, task in self.troubled():
            which = f"{task['task_id']}/logs/{task['try_number']}?map_index={task['map_index']}"
            log = answer(self.api, "GET", f"{run}/taskInstances/{which}")[1].get("content", [])
            named = f"dag_id={task['dag_id']}&run_id={quote(task['dag_run_id'], safe='')}"
            named += f"&task_id={task['task_id']}&map_index={task['map_index']}"
            noted = answer(self.api, "GET", f"/api/v2/eventLogs?{named}")[1].get("event_logs", [])
            told += [f"{run} {task['task_id']} {task['map_index']} {task['state']} {task['start_date']}"]
            told += [f"{entry['when']} {entry['event']} {entry['extra']}" for entry in noted]
            told += [str(line) for line in log[-25:]]
        return "\n".join(told)


def answer(api: Api, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Ask the API; what does not answer has the status 0."""
    try:
        status, content = api.ask(method, path, body)
    except OSError:
        return 0, {}
    return status, content if isinstance(content, dict) else {}
