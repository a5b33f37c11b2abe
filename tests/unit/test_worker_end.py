"""worker_end.sh: whose tasks end with a worker that is removed by force."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FILE = Path(__file__).parents[2] / "roles/airflow/files/worker_end.sh"


def test_only_the_tasks_of_the_worker_end(tmp_path: Path) -> None:
    """Two processes run tasks; only the first is in the worker's control group."""
    own, other = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    programs = {
        "pgrep": (
            f"for task in {own.pid} {other.pid}; do\n"
            'case $(cut -d " " -f 3 "/proc/$task/stat") in Z) ;; *) [ "$*" = "--full ^task" ] && echo "$task" ;; esac\n'
            "done"
        ),
        "grep": f'[ "$*" = "-qsF /airflow-worker.service /proc/{own.pid}/cgroup" ]',
        "systemctl": f'echo "$@" >> {tmp_path}/asked',
        "timeout": f'echo timeout "$@" >> {tmp_path}/asked',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    try:
        subprocess.run(
            ["sh", FILE, "airflow-worker.service", "--full", "^task"],
            check=True,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            timeout=30,
        )
        assert own.wait(timeout=5) == -15
        assert other.poll() is None
    finally:
        for process in (own, other):
            process.kill()
            process.wait()
    assert (tmp_path / "asked").read_text().splitlines() == [
        "stop --no-block airflow-worker.service",
        "timeout 30 systemctl stop airflow-worker.service",
        "kill --signal=KILL airflow-worker.service",
        "reset-failed airflow-worker.service",
    ]
