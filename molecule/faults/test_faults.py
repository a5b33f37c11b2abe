"""Break a cluster under load in every way that it must bear, and count what came of each task.

Each row goes into .cache/faults.json; `make faults` makes docs/faults.md of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from breaking import FAULTS, WORKER, Fault
from conftest import TOP, Api, Cluster, wait_until
from load import FINAL, Load, answer

RESULTS = TOP / ".cache" / "faults.json"
# Longer than the time after which the scheduler gives up a silent task, and its retry.
PATIENCE = 300

pytestmark = pytest.mark.usefixtures("own_dags")


def works_again(api: Api) -> bool:
    """Whether a new run gets through every worker; asked again and again, each time anew."""
    load = Load(api, "")
    run = load.start("probe")
    if not run:
        return False
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if answer(api, "GET", run)[1].get("state") in FINAL:
            return {task["state"] for task in api.tasks(run)} == {"success"}
        time.sleep(0.5)
    return False


@pytest.fixture(scope="module")
def rows() -> Iterator[list[dict[str, Any]]]:
    """The rows of the table, written when all is over."""
    found: list[dict[str, Any]] = []
    yield found
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=TOP, check=True, capture_output=True, text=True
    ).stdout.strip()
    measured = {"date": datetime.now(tz=UTC).strftime("%Y-%m-%d"), "commit": commit, "cpus": os.cpu_count()}
    RESULTS.write_text(json.dumps({**measured, "rows": found}, indent=1) + "\n")


@pytest.fixture(scope="module", autouse=True)
def dags(api: Api) -> None:
    """Switch the DAGs on."""
    for dag in ("stream", "stream_retried", "patient", "patient_retried", "probe"):
        wait_until(lambda dag=dag: api.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": False})[0] == 200, 120)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault: Fault, cluster: Cluster, api: Api, rows: list[dict[str, Any]]) -> None:
    before = cluster.started()
    with (fault.needs or nullcontext)(cluster), Load(api, "_retried" if fault.kills else "") as load:
        wait_until(lambda: len(load.runs) > 2, 60)
        patient = load.start(f"patient{load.suffix}", seconds=fault.seconds + 30)
        wait_until(lambda: [task["state"] for task in api.tasks(patient)] == ["running"] * 2, 60)
        begun = datetime.now(tz=UTC)
        with fault.breaks(cluster):
            # How long it lasts is what is tested.
            time.sleep(fault.seconds)
        mended = time.monotonic()
        try:
            wait_until(lambda: works_again(api), PATIENCE)
        except AssertionError as late:
            raise AssertionError(f"no new run gets through every worker:\n{load.why()}") from late
        recovered = time.monotonic() - mended
    count = load.count(begun, PATIENCE)

    def missing() -> list[str]:
        """Services that ran before and do not run now, or the host that cannot be asked."""
        try:
            now = cluster.started()
        except RuntimeError as problem:
            return [str(problem)]
        return sorted(f"{unit} on {host}" for host, unit in set(before) - set(now))

    deadline = time.monotonic() + 60
    while missing() and time.monotonic() < deadline:
        time.sleep(1)
    row = {"fault": fault.name, "retries": 2 if fault.kills else 0, **count._asdict()}
    row |= {"recovered": round(recovered, 1), "human": missing()}
    rows.append(row)
    assert (row["failed"], row["lost"], row["human"]) == (0, 0, []), f"{row}\n{load.why()}"
    assert row["first_try"] + row["retried"] == row["submitted"]
    if fault.kills:
        assert row["retried"] > 0, "nothing died: the fault proves nothing"
        assert row["retried_within"] < 90, row
        assert row["died_on"] == [cluster.address(WORKER)], row
    else:
        assert row["retried"] == 0, row
