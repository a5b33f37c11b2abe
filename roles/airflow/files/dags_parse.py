"""Parses a folder of DAGs as the DAG processor does, and prints what came of it as one line of JSON.

    python - FOLDER BUNDLE < dags_parse.py

Each file has a process of its own: what one does to it, or a crash, is no matter for the others.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

FOLDER, BUNDLE = sys.argv[1:]
# The folder that it runs in is none that the DAG processor imports from.
sys.path[:] = [path for path in sys.path if path]
# What DAG files and Airflow print is not the answer.
ANSWER = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from airflow.configuration import conf  # noqa: E402
from airflow.dag_processing.dagbag import BundleDagBag  # noqa: E402
from airflow.serialization.serialized_objects import DagSerialization  # noqa: E402
from airflow.utils.file import list_py_file_paths  # noqa: E402

LIMIT = conf.getint("dag_processor", "dag_file_processor_timeout")


def place(error: str) -> str:
    """The last line of a traceback that is in the folder, and what was raised: one line."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip()]
    inside = [line for line in lines if line.startswith('File "') and FOLDER in line]
    where = ""
    if inside:
        path, _, rest = inside[-1].removeprefix('File "').partition('", line ')
        where = f"{os.path.relpath(path, FOLDER)}:{rest.split(',')[0]}: "
    return where + (lines[-1] if lines else "no reason given")


def parse(path: str) -> dict[str, object]:
    """What one file has: its DAGs and its errors."""
    bag = BundleDagBag(dag_folder=path, bundle_path=Path(FOLDER), bundle_name=BUNDLE, load_op_links=False)
    errors = {str(name): place(text) for name, text in bag.import_errors.items()}
    for dag in bag.dags.values():
        try:
            DagSerialization.to_dict(dag)
        except Exception:
            errors[os.path.relpath(path, FOLDER)] = place(traceback.format_exc())
    return {"dags": [] if errors else sorted(bag.dags), "errors": errors}


def child(path: str, answer: Path) -> None:
    """Parse a file in this process, and end it."""
    try:
        result = parse(path)
    except BaseException:
        result = {"dags": [], "errors": {os.path.relpath(path, FOLDER): place(traceback.format_exc())}}
    answer.write_text(json.dumps(result))
    os._exit(0)


def main() -> None:
    safe_mode = conf.getboolean("core", "dag_discovery_safe_mode")
    found = sorted(str(path) for path in list_py_file_paths(FOLDER, safe_mode=safe_mode))
    waiting = list(found)
    dags: dict[str, list[str]] = {}
    errors: dict[str, str] = {}
    running: dict[int, tuple[str, Path, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        number = 0
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                path, number = waiting.pop(0), number + 1
                answer = Path(scratch, str(number))
                pid = os.fork()
                if not pid:
                    child(path, answer)
                running[pid] = (path, answer, time.monotonic())
            for pid, (path, answer, start) in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                name = os.path.relpath(path, FOLDER)
                if done:
                    del running[pid]
                    if answer.is_file():
                        result = json.loads(answer.read_text())
                        errors.update(result["errors"])
                        for dag in result["dags"]:
                            dags.setdefault(dag, []).append(name)
                    else:
                        ended = os.waitstatus_to_exitcode(status)
                        errors.setdefault(name, f"the process that read it ended with status {ended}")
                elif time.monotonic() - start > LIMIT:
                    errors[name] = f"it takes longer than {LIMIT} s, [dag_processor] dag_file_processor_timeout"
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    for dag, files in dags.items():
        if len(files) > 1:
            errors.setdefault(files[-1], f"it has the DAG {dag}, and so has {', '.join(files[:-1])}")
    print(json.dumps({"files": len(found), "dags": sorted(dags), "errors": errors}), file=ANSWER, flush=True)


main()
