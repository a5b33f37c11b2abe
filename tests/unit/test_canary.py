"""canary: how it judges workers, the parsed DAG, the run and the logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.module_utils.airflow_api import ApiError
from ansible_collections.dataops.airflow.plugins.modules import canary
from ansible_collections.dataops.airflow.plugins.modules.canary import CanaryError

WORKERS = {"worker1": "10.0.0.21", "worker2": "10.0.0.22"}
DAG = "/api/v2/dags/dataops_canary"


class Api:
    """Answers what a function of the path returns or raises, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append(f"{method} {path}")
        return self.answer(path)


def task(name: str, host: str = "10.0.0.21", start: int = 0, end: int = 5, **changes: Any) -> dict[str, Any]:
    """A task instance that did well."""
    return {
        "task_id": name,
        "map_index": -1,
        "state": "success",
        "try_number": 1,
        "hostname": host,
        "start_date": f"2026-01-01T12:00:{start:02}Z",
        "end_date": f"2026-01-01T12:00:{end:02}Z",
        "scheduled_when": None,
        "queued_when": None,
        "pool_slots": 1,
        **changes,
    }


def run(*changed: dict[str, Any]) -> list[dict[str, Any]]:
    """The task instances of a good run, but for those given."""
    good = [task("left"), task("right", start=2, end=9)]
    good += [task(f"on_{worker}", address) for worker, address in WORKERS.items()]
    good += [task("many", map_index=index) for index in range(32)]
    return [*changed, *(one for one in good if one["task_id"] not in {other["task_id"] for other in changed})]


def test_a_good_run_tells_its_overlap() -> None:
    assert canary.judge(run(), WORKERS, True) == 3.0
    assert canary.judge(run(task("right", start=5))[:4], {}, False) == 0.0, "few tasks are enough without workers"


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (
            run(task("left", state="failed"), task("right", state="upstream_failed")),
            "2 of 36 tasks did not succeed ({'failed': 1, 'upstream_failed': 1}), first left on 10.0.0.21",
        ),
        (run(task("left", "", state=None)), "1 of 36 tasks did not succeed ({'None': 1}), first left on no host"),
        (
            run(task("left", try_number=2)),
            "tasks needed more than one try: left on 10.0.0.21; look at the log of the first try in the web UI",
        ),
        (
            run()[:32],
            "only 32 tasks ran, on 10.0.0.21, 10.0.0.22; set airflow_canary_tasks so that more than 32 do",
        ),
        (run(task("on_worker2")), "the task for worker2 (10.0.0.22) ran on 10.0.0.21: two workers share that name"),
        (run(task("right", start=5, end=9)), "one after the other, on 10.0.0.21 and 10.0.0.21; see in the web UI"),
    ],
)
def test_a_bad_run_is_named(tasks: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(CanaryError) as caught:
        canary.judge(tasks, WORKERS, True)
    assert said in str(caught.value)


def test_workers_are_compared() -> None:
    canary.compare_workers(["a", "b"], ["b", "a"])
    with pytest.raises(CanaryError, match="no answer from the worker on b, c; see there"):
        canary.compare_workers(["c", "a", "b"], ["a", "x"])
    with pytest.raises(CanaryError, match="not in the group workers consumes from the broker: x; stop it there"):
        canary.compare_workers(["a"], ["x", "a"])


def test_the_prefix_of_a_worker_is_celerys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "ping", lambda python, broker_url: ["celery@b", "celery@a"])
    assert canary.live_workers("python", "redis://") == ["a", "b"]

    def broken(python: str, broker_url: str) -> list[str]:
        raise canary.BrokerError("OSError: away")

    monkeypatch.setattr(canary, "ping", broken)
    with pytest.raises(CanaryError, match=r"^the broker cannot be asked: OSError: away$"):
        canary.live_workers("python", "redis://")


def test_a_dag_of_other_workers_is_parsed_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary.time, "sleep", lambda duration: None)
    parsed = [["left", "on_old"], ["left", "on_old"], ["left", "on_worker1"]]

    def answer(path: str) -> Any:
        if path.endswith("/tasks"):
            return {"tasks": [{"task_id": name} for name in parsed.pop(0)]}
        return {"file_token": "a/b"}

    api = Api(answer)
    canary.await_dag(api, ["worker1"], [], float("inf"))
    tasks = f"GET {DAG}/tasks"
    assert api.asked == [tasks, f"GET {DAG}", "PUT /api/v2/parseDagFile/a%2Fb", tasks, tasks]


def test_a_dag_that_does_not_come() -> None:
    def refuse(status: int) -> Api:
        def answer(path: str) -> Any:
            raise ApiError(f"GET {path} answered {status}: b''", status)

        return Api(answer)

    with pytest.raises(CanaryError, match="the DAG dataops_canary is not parsed yet; see: journalctl"):
        canary.await_dag(refuse(404), [], [], 0)
    with pytest.raises(ApiError, match="answered 500"):
        canary.await_dag(refuse(500), [], [], 0)


def test_a_dag_without_a_task_for_each_executor_is_not_taken() -> None:
    names = ["on_worker1", "by_LocalExecutor", "left"]
    api = Api(lambda path: {"tasks": [{"task_id": name} for name in names]} if "tasks" in path else {"file_token": "x"})
    canary.await_dag(api, ["worker1"], ["CeleryExecutor", "LocalExecutor"], 0)
    assert api.asked == [f"GET {DAG}/tasks"]
    with pytest.raises(CanaryError, match=r"still has tasks for \['by_LocalExecutor', 'on_worker1'\], not for"):
        canary.await_dag(api, ["worker1"], [], 0)


def test_all_pages_of_a_run_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary.time, "sleep", lambda duration: None)
    states = ["queued", "running", "success"]
    path = f"{DAG}/dagRuns/manual__1%2B2"

    def answer(asked: str) -> Any:
        if asked == f"{DAG}/dagRuns":
            return {"dag_run_id": "manual__1+2"}
        if asked == path:
            return {"state": states.pop(0)}
        offset = int(asked.rpartition("=")[2])
        return {"task_instances": list(range(offset, min(offset + 50, 70))), "total_entries": 70}

    api = Api(answer)
    assert canary.run_dag(api, float("inf")) == ("manual__1+2", list(range(70)))
    pages = [f"GET {path}/taskInstances?limit=50&offset={offset}" for offset in (0, 50)]
    assert api.asked == [f"POST {DAG}/dagRuns", *[f"GET {path}"] * 3, *pages]


def test_the_log_of_each_worker_is_read() -> None:
    api = Api(lambda path: {"content": [{"event": f"canary {int('on_b' in path)}"}]})
    canary.read_logs(api, "run", ["a", "b"], [])
    canary.read_logs(api, "run", [], [])
    place = f"GET {DAG}/dagRuns/run/taskInstances"
    of_both = [f"{place}/on_a/logs/1", f"{place}/on_b/logs/1"]
    assert api.asked == [*of_both, f"{place}/many/logs/1?map_index=0"]
    api.asked.clear()
    canary.read_logs(api, "run", ["a", "b"], ["CeleryExecutor", "LocalExecutor"])
    assert api.asked == [*of_both, f"{place}/by_LocalExecutor/logs/1"]
    with pytest.raises(CanaryError, match=r"the log of on_a cannot be read: .*Could not read"):
        canary.read_logs(Api(lambda path: {"content": "Could not read served logs"}), "run", ["a"], [])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A good cluster, as the module finds it; what a test changes in it is what the module then finds."""
    told: dict[str, Any] = {"version": "3.3.2", "live": list(WORKERS), "logs": ["canary 0", "canary 1"]}

    def answer(path: str) -> Any:
        place = path.removeprefix(DAG)
        if path == "/api/v2/version":
            return {"version": told["version"]}
        if place == "/tasks":
            return {"tasks": [{"task_id": f"on_{worker}"} for worker in WORKERS]}
        if place == "/dagRuns":
            return {"dag_run_id": "run"}
        if "/logs/" in place:
            return {"content": told["logs"]["on_worker2" in place]}
        return {"task_instances": run(), "total_entries": len(run())} if "?" in place else {"state": "success"}

    def connect(url: str, ca_path: str) -> Api:
        api = told["api"] = Api(answer)
        monkeypatch.setattr(api, "login", lambda username, password: None, raising=False)
        return api

    monkeypatch.setattr(canary, "Api", connect)
    monkeypatch.setattr(canary, "live_workers", lambda python, broker_url: sorted(told["live"]))
    return told


def call(capsys: pytest.CaptureFixture[str], check: bool = False) -> dict[str, Any]:
    """Run the module in this process; its JSON answer."""
    options = {"url": "http://x", "username": "admin", "password": "sesame", "version": "3.3.2", "workers": WORKERS}
    with patch_module_args({**options, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        canary.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_good_cluster_passes(cluster: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys)
    assert not answer.get("failed"), answer
    assert (answer["run"], answer["overlap"], answer["changed"]) == ("run", 3.0, False)
    assert answer["by_host"] == {"worker1": 35, "worker2": 1}
    right = {"task": "right", "host": "worker1", "scheduled": 2.0, "queued": 2.0, "start": 2.0, "end": 9.0, "slots": 1}
    assert answer["tasks"][1] == right


def test_a_check_runs_no_dag(cluster: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, check=True)["tasks"] == []
    assert [asked for asked in cluster["api"].asked if asked.startswith("POST")] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "3.3.1"}, "canary: the API server runs 3.3.1, not 3.3.2; run site.yml"),
        (
            {"live": [*WORKERS, "stray"]},
            "canary: a worker that is not in the group workers consumes from the broker: stray;",
        ),
        ({"live": ["worker1"]}, "canary: no answer from the worker on worker2;"),
        ({"logs": ["canary 0", "Could not read served logs"]}, "canary: the log of on_worker2 cannot be read: "),
    ],
)
def test_a_bad_cluster_fails(
    change: dict[str, Any], said: str, cluster: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.update(change)
    answer = call(capsys)
    assert answer["failed"]
    assert answer["msg"].startswith(said)
    # What ran before is there to be drawn.
    assert bool(answer["tasks"]) is ("logs" in change)
