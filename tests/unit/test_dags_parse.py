"""dags_parse: errors with their lines, crashes, slow files, two of a name, the sandbox, the second look, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import dags_parse

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = (CHECKOUT / "roles/airflow/files/dags_parse.py").read_text()
# As much of Airflow as the program uses: a file's DAGs are the names in its list DAGS.
AIRFLOW = {
    "configuration.py": """
import os
class conf:
    getint = staticmethod(lambda section, option: int(os.environ.get("LIMIT", "50")))
    getboolean = staticmethod(lambda section, option: True)
""",
    "dag_processing/dagbag.py": """
import os, runpy, sys, traceback
class BundleDagBag:
    def __init__(self, dag_folder, bundle_path, bundle_name, load_op_links):
        sys.path.append(str(bundle_path))
        self.dags, self.import_errors = {}, {}
        try:
            print("a DAG file may print")
            self.dags = {name: name for name in runpy.run_path(dag_folder).get("DAGS", [])}
        except Exception:
            self.import_errors[os.path.relpath(dag_folder, bundle_path)] = traceback.format_exc()
""",
    "serialization/serialized_objects.py": """
class DagSerialization:
    @staticmethod
    def to_dict(dag):
        if dag == "unserializable":
            raise TypeError("a lock cannot be serialized")
""",
    "utils/file.py": """
from pathlib import Path
list_py_file_paths = lambda folder, safe_mode: [p for p in Path(folder).rglob("*.py") if "DAGS" in p.read_text()]
""",
}


@pytest.fixture
def parse(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The real program on a folder with these files."""
    for name, text in AIRFLOW.items():
        path = tmp_path / "lib/airflow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def call(files: dict[str, str], **environment: str) -> dict[str, Any]:
        for name, text in files.items():
            path = tmp_path / "dags" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-", str(tmp_path / "dags"), "dags-folder"],
            input=PROGRAM,
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "lib"), **environment},
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return call


def test_what_a_folder_has(parse: Callable[..., dict[str, Any]]) -> None:
    answer = parse({"a.py": "DAGS = ['a', 'a2']", "team/b.py": "from common import DAGS", "common.py": "DAGS = ['b']"})
    assert answer["files"] == 3 and answer["errors"] == {"team/b.py": "it has the DAG b, and so has common.py"}
    assert answer["dags"] == ["a", "a2", "b"]


def test_errors_say_where(parse: Callable[..., dict[str, Any]]) -> None:
    answer = parse(
        {
            "good.py": "DAGS = ['good']",
            "team/bad.py": "DAGS = ['lost']\nimport helper_of_ours\n",
            "helper_of_ours.py": "x = 1\nimport no_such_package\n",
            "syntax.py": "DAGS = [\n",
            "serial.py": "DAGS = ['unserializable', 'beside']",
        }
    )
    errors = answer["errors"]
    assert answer["dags"] == ["good"]
    assert errors["team/bad.py"] == "helper_of_ours.py:2: ModuleNotFoundError: No module named 'no_such_package'"
    assert errors["syntax.py"].startswith("syntax.py:1: SyntaxError")
    assert errors["serial.py"] == "TypeError: a lock cannot be serialized"
    assert len(errors) == 3


def test_a_file_that_ends_its_process_or_takes_for_ever(parse: Callable[..., dict[str, Any]]) -> None:
    start = time.monotonic()
    answer = parse(
        {
            "exit.py": "import sys\nDAGS = []\nsys.exit('no')",
            "crash.py": "import os\nDAGS = []\nos.kill(os.getpid(), 11)",
            "slow.py": "import time\nDAGS = []\ntime.sleep(60)",
            "good.py": "DAGS = ['good']",
        },
        LIMIT="1",
    )
    assert time.monotonic() - start < 30
    assert answer["dags"] == ["good"]
    assert answer["errors"] == {
        "exit.py": "exit.py:3: SystemExit: no",
        "crash.py": "the process that read it ended with status -11",
        "slow.py": "it takes longer than 1 s, [dag_processor] dag_file_processor_timeout",
    }


# -- the module ------------------------------------------------------------------------------------------------------

SYSTEMD_RUN = f"""#!{sys.executable}
import json, os, subprocess, sys
options, command = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
file = next(o.partition("EnvironmentFile=")[2] for o in options if "EnvironmentFile=" in o)
text = open(file).read()
config = dict(line.split("=", 1) for line in text.splitlines())["AIRFLOW_CONFIG"]
seen = {{"options": options, "command": command, "environment": text, "mode": oct(os.stat(file).st_mode),
        "config": open(config).read(), "program": sys.stdin.read(), "file": file}}
with open(os.environ["SEEN"], "a") as out:
    print(json.dumps(seen), file=out)
answers = json.loads(os.environ["ANSWERS"])
print(answers["secrets" if "SECRET=" in text and "secrets" in answers else "plain"])
"""


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The module with a systemd-run that gives these answers; what it said, and how systemd-run was called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemd-run").write_text(SYSTEMD_RUN)
    (tmp_path / "bin/systemd-run").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def call(answers: dict[str, Any], **args: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        seen = tmp_path / "seen"
        seen.write_text("")
        monkeypatch.setenv("SEEN", str(seen))
        texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in answers.items()}
        monkeypatch.setenv("ANSWERS", json.dumps(texts))
        arguments = {
            "folder": "/opt/airflow/dags/0123456789abcdef",
            "python": "/opt/airflow/current/bin/python",
            "program": "THE PROGRAM",
            "config": "[core]\n",
            "environment": "AIRFLOW_HOME=/var/lib/airflow\n",
            **args,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            dags_parse.main()
        return json.loads(capsys.readouterr().out), [json.loads(line) for line in seen.read_text().splitlines()]

    return call


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module warns of; Ansible keeps that by process."""
    found: list[str] = []
    monkeypatch.setattr(dags_parse.AnsibleModule, "warn", lambda _module, text: found.append(text))
    return found


GOOD = {"files": 2, "dags": ["a", "b"], "errors": {}}
BAD = {"files": 2, "dags": ["a"], "errors": {"b.py": "b.py:2: NameError: name 'x' is not defined", "c.zip/d.py": "no"}}


def test_the_unit(run: Callable[..., Any]) -> None:
    service = {
        "User": "airflow",
        "NoNewPrivileges": True,
        "SystemCallFilter": ["@system-service", "~@mount"],
        "X": "",
        "Y": None,
    }
    answer, (seen,) = run({"plain": GOOD}, service=service, secrets="SECRET=1\n")
    assert not answer["changed"] and (answer["dags"], answer["files"], answer["errors"]) == (["a", "b"], 2, {})
    options = seen["options"]
    assert not [option for option in options if option.startswith("--property=Y")]
    for option in (
        "User=airflow",
        "NoNewPrivileges=true",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@mount",
        "X=",
        "RuntimeMaxSec=600",
    ):
        assert f"--property={option}" in options, option
    assert seen["command"] == [
        "/opt/airflow/current/bin/python",
        "-",
        "/opt/airflow/dags/0123456789abcdef",
        "dags-folder",
    ]
    assert seen["program"] == "THE PROGRAM" and seen["config"] == "[core]\n"
    assert seen["mode"].endswith("600") and "SECRET" not in seen["environment"]
    assert not Path(seen["file"]).parent.exists()


def test_errors_are_refused(run: Callable[..., Any], warnings: list[str]) -> None:
    answer, seen = run({"plain": BAD})
    assert answer["failed"] and len(seen) == 1
    for words in (
        "The DAGs were not switched, because 2 of 2 files cannot be imported.",
        "found:   b.py:2: NameError: name 'x' is not defined\n           c.zip/d.py: no\n",
        "allowed:",
        "remedy:",
        "-e airflow_dags_force=true",
    ):
        assert words in answer["msg"], answer["msg"]
    assert answer["errors"] == BAD["errors"]
    answer, _seen = run({"plain": BAD}, force=True)
    assert "failed" not in answer and answer["dags"] == ["a"]
    assert "Switched by force, although 2 of 2" in warnings[-1]


def test_many_errors_fit_on_a_screen(run: Callable[..., Any]) -> None:
    errors = {f"{number:02}.py": "x" * 1000 for number in range(40)}
    message = run({"plain": {"files": 40, "dags": [], "errors": errors}})[0]["msg"]
    assert "and 20 more" in message and len(message.splitlines()) < 30 and max(map(len, message.splitlines())) < 330


def test_a_second_look_with_secrets(run: Callable[..., Any]) -> None:
    answer, seen = run({"plain": BAD, "secrets": GOOD}, secrets="SECRET=1\n")
    assert "failed" not in answer and answer["dags"] == ["a", "b"]
    assert ["SECRET=1" in call["environment"] for call in seen] == [False, True]
    assert {call["mode"][-3:] for call in seen} == {"600"}
    assert "SECRET" not in json.dumps([call["options"] for call in seen])
    assert run({"plain": BAD, "secrets": BAD}, secrets="SECRET=1\n")[0]["failed"]


def test_a_parser_that_does_not_answer(run: Callable[..., Any]) -> None:
    answer, _seen = run({"plain": "no JSON"})
    assert answer["failed"] and "The DAGs were not switched: the parser ended with status 0" in answer["msg"]
