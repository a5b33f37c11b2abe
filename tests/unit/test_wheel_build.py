"""wheel_build: with a fake interpreter; what it fetches, what it leaves, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import wheel_build as module

INDEX = "https://robot:s3cr%40t@packages.example.org/simple"
HASH = "sha256:" + "a" * 64
# Stands for python and, after `-m venv`, for the environment's python. $OUTCOME says how the build ends.
TOOL = """\
#!/bin/sh
echo "$(id -u) $*" >> {log}
env >> {log}.environment
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip wheel "*)
    for last; do :; done
    cp "$last" {log}.requirements
    while [ "$1" != --wheel-dir ]; do shift; done
    mkdir "$2"
    {outcome} ;;
  *) exit 8 ;;
esac
"""
GOOD = 'echo wheel > "$2/My_Pkg-1.0-py3-none-any.whl"'
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def host() -> Iterator[Path]:
    """A folder that the unprivileged user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o777)
        (path / "dest").mkdir()
        (path / "tmp").mkdir(mode=0o777)
        (path / "tmp").chmod(0o777)
        yield path


@pytest.fixture
def call(host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the module in this process; its JSON answer."""
    monkeypatch.setattr(tempfile, "tempdir", str(host / "tmp"))

    def run(outcome: str = GOOD, check: bool = False, **options: Any) -> dict[str, Any]:
        for suffix in ("", ".environment", ".requirements"):
            (host / f"log{suffix}").touch()
            (host / f"log{suffix}").chmod(0o666)
        (host / "python").write_text(TOOL.format(log=host / "log", outcome=outcome))
        (host / "python").chmod(0o755)
        arguments = {
            "name": "my.pkg",
            "version": "1.0",
            "hashes": [HASH],
            "dest": str(host / "dest"),
            "python": str(host / "python"),
            "index_url": INDEX,
            "_ansible_check_mode": check,
            **options,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        output = capsys.readouterr().out
        assert "s3cr" not in output
        assert list((host / "tmp").iterdir()) == [], "nothing is left behind"
        answer: dict[str, Any] = json.loads(output)
        return answer

    return run


def test_a_wheel_is_built_and_kept(host: Path, call: Call) -> None:
    answer = call()
    wheel = host / "dest/My_Pkg-1.0-py3-none-any.whl"
    assert (answer["changed"], answer["path"]) == (True, str(wheel))
    assert answer["sha256"] == hashlib.sha256(b"wheel\n").hexdigest()
    assert wheel.stat().st_mode & 0o777 == 0o644
    assert (host / "log.requirements").read_text() == f"my.pkg==1.0 --hash={HASH}\n"
    _venv, pip = (host / "log").read_text().splitlines()
    for option in ("--no-deps", "--require-hashes", "--no-binary=my.pkg", "--use-pep517"):
        assert option in pip
    assert "s3cr" not in pip


def test_how_pip_reaches_the_index(host: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "of-the-host")
    authorities = host / "authorities.pem"
    authorities.touch()
    call(ca_bundle=str(authorities))
    environment = (host / "log.environment").read_text()
    assert f"PIP_INDEX_URL={INDEX}\n" in environment and f"PIP_CERT={authorities}\n" in environment
    assert "of-the-host" not in environment
    assert f"HOME={host / 'tmp'}/airflow-wheel-" in environment


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_packages_code_does_not_run_as_root(host: Path, call: Call) -> None:
    call()
    assert {line.split()[0] for line in (host / "log").read_text().splitlines()} == {str(module.builder()["user"])}


def test_check_mode_builds_nothing(host: Path, call: Call) -> None:
    answer = call(check=True)
    assert answer["changed"] is True and "path" not in answer
    assert (host / "log").read_text() == "" and list((host / "dest").iterdir()) == []


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("echo no compiler at $PIP_INDEX_URL >&2; exit 3", "no compiler at"),
        ("echo no login with s3cr@t or s3cr%40t >&2; exit 3", "no login with *** or ***"),
        ("true", "the build left no wheel"),
        ('ln -s /etc/hostname "$2/My_Pkg-1.0-py3-none-any.whl"', "the build left no wheel"),
        ('echo x > "$2/other-1.0-py3-none-any.whl"', "the build left other-1.0-py3-none-any.whl"),
        (f'{GOOD}; echo x > "$2/other-1.0-py3-none-any.whl"', "the build left "),
    ],
)
def test_a_build_that_fails(host: Path, call: Call, outcome: str, words: str) -> None:
    answer = call(outcome)
    assert answer["failed"] is True
    assert answer["msg"].startswith("my.pkg 1.0: ") and words in answer["msg"]
    assert list((host / "dest").iterdir()) == []


def test_a_missing_interpreter(call: Call) -> None:
    assert call(python="/nonexistent/python")["failed"] is True
