"""lock: with a fake uv; what is asked of it, what is kept, written and refused, and wheels built on a host."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible_collections.dataops.airflow.plugins.action import lock as action
from ansible_collections.dataops.airflow.plugins.module_utils import lock_file

INDEX = "https://robot:s3cr%40t@packages.example.org/simple"
UV = "uv==0.0.1 \\\n    --hash=sha256:00\n"
NEW = "sha256:" + "1" * 64
OLD = "sha256:" + "2" * 64
# Keeps the pins in the output file that were there, and takes the rest from a table, as uv does.
TOOL = """\
#!{python}
import json, os, re, sys
from pathlib import Path
argv = sys.argv[1:]
if argv == ["--version"]:
    print("uv 0.0.1 (fake)"); sys.exit()
with open({log!r}, "a") as log:
    print(json.dumps([argv, dict(os.environ), os.getcwd()]), file=log)
world = json.loads(Path({world!r}).read_text())
for words, code, message in world["failures"]:
    if words in " ".join(argv):
        print(message, file=sys.stderr); sys.exit(code)
if argv[1] == "compile":
    kept = dict(re.findall(r"(?m)^([\\w.-]+)==((?:.|\\n    )*)", Path("lock.txt").read_text()))
    if "--upgrade" in argv:
        kept = {{}}
    for option, name in zip(argv, argv[1:]):
        if option == "--upgrade-package":
            kept.pop(name, None)
    lines = []
    for line in sorted(Path("requirements.in").read_text().splitlines()):
        name = re.match(r"[\\w.-]+", line)[0]
        pin = kept.get(name, "").replace("\\n    ", " ").replace("\\\\ ", "")
        version, *hashes = (pin or world["versions"][name]).split()
        lines.append(" ".join([name + "==" + version, *(hashes or ["--hash=" + {new!r}])]))
    Path("lock.txt").write_text("\\n".join(lines) + "\\n")
"""
WHEEL = "docopt-0.6.2-cp311-cp311-linux_x86_64.whl"


class Site:
    """A folder with an inventory's lock, and a control node with a fake uv."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "site" / "airflow-lock.txt"
        self.lock.parent.mkdir()
        self.log = folder / "log"
        self.versions = {
            "apache-airflow": "3.3.2",
            "boto3": "1.44",
            "celery": "5.6.3",
            "docopt": "0.6.2",
            "redis": "6.4",
        }
        self.failures: list[tuple[str, int, str]] = []
        self.modules: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.built = b"wheel"
        tool = folder / "bin" / "uv"
        tool.parent.mkdir()
        names = {"log": str(self.log), "world": str(folder / "world.json"), "new": NEW}
        tool.write_text(TOOL.format(python=sys.executable, **names))
        tool.chmod(0o755)

    def call(self, *, check: bool = False, diff: bool = True, **options: Any) -> dict[str, Any]:
        """Run the action plugin."""
        world = {"versions": self.versions, "failures": self.failures}
        (self.folder / "world.json").write_text(json.dumps(world))
        task = mock.MagicMock(async_val=0, check_mode=check, diff=diff)
        task.args = {"path": str(self.lock), "version": "3.3.2", "extras": ["celery"], "uv": UV, **options}
        shell = SimpleNamespace(tmpdir=None)
        plugin = action.ActionModule(
            task, mock.MagicMock(_shell=shell, fetch_file=self.fetch), mock.MagicMock(), DataLoader(), None, None
        )

        def make_tmp_path() -> None:
            shell.tmpdir = "/remote"

        plugin._make_tmp_path = make_tmp_path
        plugin._execute_module = lambda name, module_args, task_vars: self.module(name, module_args, check)
        plugin._display = SimpleNamespace(warning=self.warnings.append)
        return dict(plugin.run(task_vars={"inventory_hostname": "control1"}))

    def module(self, name: str, arguments: dict[str, Any], check: bool) -> dict[str, Any]:
        assert name == "dataops.airflow.wheel_build"
        self.modules.append(arguments)
        if check:
            return {"changed": True}
        if self.built == b"":
            return {"failed": True, "msg": f"no compiler ({INDEX})"}
        digest = action.hashlib.sha256(b"wheel").hexdigest()
        return {"changed": True, "path": f"/remote/{WHEEL}", "sha256": digest}

    def fetch(self, source: str, target: str) -> None:
        assert source == f"/remote/{WHEEL}"
        Path(target).write_bytes(self.built)

    def refused(self, **options: Any) -> str:
        """What a refusal says; it leaves everything as it was."""
        before = self.lock.read_text() if self.lock.exists() else None
        with pytest.raises(AnsibleActionFail) as caught:
            self.call(**options)
        message = str(caught.value)
        assert "Nothing was changed." in message and "s3cr" not in message
        assert (self.lock.read_text() if self.lock.exists() else None) == before
        assert {path.name for path in self.lock.parent.glob(".*")} <= {".wheels"}
        return message

    def calls(self) -> list[tuple[list[str], dict[str, str], str]]:
        """What uv was called with since the last time."""
        found = [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]
        self.log.unlink()
        return found  # type: ignore[return-value]

    def write(self, pins: dict[str, str], **header: str) -> None:
        """Write the site's lock."""
        body = lock_file.write_pins(lock_file.Pin(name, version, "", (OLD,)) for name, version in pins.items())
        self.lock.write_text(lock_file.render({"airflow": "3.3.2", **header}, body))

    def pins(self) -> dict[str, str]:
        lock = lock_file.parse(self.lock.read_text())
        return {pin.name: f"{pin.version} {pin.hashes[0][7:9]}" for pin in lock.pins}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return made


def options_of(argv: list[str], name: str) -> list[str]:
    """Values that an option was given."""
    return [value for option, value in itertools.pairwise(argv) if option == name]


def test_bare_then_unchanged(site: Site) -> None:
    planned = site.call(check=True, requirements=["boto3"])
    assert planned["changed"] and not site.lock.exists()
    done = site.call(requirements=["boto3"])
    assert done == planned
    assert done["changes"] == ["+ apache-airflow 3.3.2", "+ boto3 1.44"]
    assert (done["path"], done["packages"], done["built"]) == (str(site.lock), 2, [])
    assert done["diff"] == {"prepared": "+ apache-airflow 3.3.2\n+ boto3 1.44\n"}
    assert site.lock.stat().st_mode & 0o777 == 0o644
    text = site.lock.read_text()
    assert not lock_file.edited_by_hand(text)
    header = lock_file.parse(text).header
    assert {key: header[key] for key in ("airflow", "extras", "requirements", "python")} == {
        "airflow": "3.3.2",
        "extras": "celery",
        "requirements": '["boto3"]',
        "python": "3.10",
    }
    assert "until" not in header and "cut-off" not in header
    inode = site.lock.stat().st_ino
    again = site.call(requirements=["boto3"])
    assert (again["changed"], again["changes"], site.lock.stat().st_ino) == (False, [], inode)
    assert "diff" not in again


def test_how_uv_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_EXCLUDE_NEWER", "UV_PRERELEASE", "UV_EXTRA_INDEX_URL", "PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "of-the-operator")
    monkeypatch.setenv("UV_CACHE_DIR", str(site.folder / "cache"))
    monkeypatch.setenv("SSL_CERT_FILE", str(site.folder / "trusted.pem"))
    limits = site.folder / "limits.txt"
    site.call(
        extras=["celery", "fab"],
        constraints=[str(limits), "", "https://example.org/constraints.txt"],
        cutoff="2026-09-18",
        python="3.11",
        index_url=INDEX,
    )
    compiled, *tried = site.calls()
    argv, environment, folder = compiled
    assert argv[:2] == ["pip", "compile"] and argv[-1] == "requirements.in"
    for option in ("--universal", "--generate-hashes", "--no-header", "--no-annotate"):
        assert option in argv
    assert options_of(argv, "--only-binary") == [":all:"] and "--no-binary" not in argv
    assert options_of(argv, "--python-version") == ["3.11"]
    assert options_of(argv, "--constraints") == [str(limits), "https://example.org/constraints.txt"]
    assert options_of(argv, "--exclude-newer") == ["2026-09-18"]
    assert "--upgrade" not in argv
    assert "s3cr" not in " ".join(argv) and environment["UV_DEFAULT_INDEX"] == INDEX
    assert environment["UV_CACHE_DIR"] == str(site.folder / "cache")
    assert environment["SSL_CERT_FILE"] == str(site.folder / "trusted.pem")
    assert "of-the-operator" not in environment.values()
    assert not Path(folder).exists(), "a project's settings do not reach it"
    assert [options_of(argv, "--python-version") for argv, _, _ in tried] == [["3.11"], ["3.12"], ["3.13"]]
    assert "s3cr" not in site.lock.read_text()


def test_the_operators_index_is_kept_where_the_site_has_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", INDEX)
    site.failures = [("compile", 2, f"error: Failed to fetch: {INDEX}/boto3/")]
    assert "https://packages.example.org/simple" in site.refused()
    assert site.calls()[0][1]["UV_DEFAULT_INDEX"] == INDEX


def test_authorities_of_the_site_are_trusted_besides_those_of_the_machine(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("trusted", "own"):
        (site.folder / f"{name}.pem").write_text(f"{name}\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(site.folder / "trusted.pem"))
    assert action.bundle_of([], site.folder) == ""
    bundle = action.bundle_of([str(site.folder / "own.pem")], site.folder)
    assert Path(bundle).read_text().split() == ["trusted", "own"]
    site.call(ca_certificates=[str(site.folder / "own.pem")])
    assert site.calls()[0][1]["SSL_CERT_FILE"].endswith("authorities.pem")


def test_proven_versions_are_kept(site: Site) -> None:
    seed = site.folder / "seed.txt"
    body = lock_file.write_pins(
        [lock_file.Pin("celery", "5.6.2", "", (OLD,)), lock_file.Pin("redis", "6.2", "", (OLD,))]
    )
    seed.write_text(lock_file.render({"airflow": "3.3.2"}, body))
    site.write({"apache-airflow": "3.3.2", "celery": "5.6.1"})
    done = site.call(seed=str(seed), requirements=["boto3", "celery", "redis"])
    assert site.pins() == {"apache-airflow": "3.3.2 22", "boto3": "1.44 11", "celery": "5.6.1 22", "redis": "6.2 22"}
    assert done["changes"] == ["+ boto3 1.44", "+ redis 6.2"]


def test_the_first_lock_is_compared_with_its_seed(site: Site) -> None:
    seed = site.folder / "seed.txt"
    pins = [lock_file.Pin("apache-airflow", "3.3.2", "", (OLD,))]
    seed.write_text(lock_file.render({"airflow": "3.3.2"}, lock_file.write_pins(pins)))
    assert site.call(seed=str(seed), requirements=["boto3"])["changes"] == ["+ boto3 1.44"]


def test_a_lock_for_another_airflow_comes_after_the_seed(site: Site) -> None:
    seed = site.folder / "seed.txt"
    pins = [lock_file.Pin(name, "3.3.2", "", (OLD,)) for name in ("apache-airflow", "celery")]
    seed.write_text(lock_file.render({"airflow": "3.3.2"}, lock_file.write_pins(pins)))
    site.write({"celery": "3.2.0", "boto3": "1.40"}, airflow="3.2.0")
    site.call(seed=str(seed), requirements=["boto3", "celery"])
    assert site.pins() == {"apache-airflow": "3.3.2 22", "boto3": "1.40 22", "celery": "3.3.2 22"}


def test_hashes_of_a_lock_that_was_edited_are_not_kept(site: Site) -> None:
    site.write({"apache-airflow": "3.3.2", "celery": "5.6.1"})
    site.lock.write_text(site.lock.read_text().replace("sha256:222", "sha256:333"))
    done = site.call(requirements=["celery"])
    assert done["changed"] and done["changes"] == []
    assert site.pins() == {"apache-airflow": "3.3.2 11", "celery": "5.6.1 11"}


def test_what_is_no_lock_is_replaced(site: Site) -> None:
    site.lock.write_text("nonsense\n")
    assert site.call()["changes"] == ["+ apache-airflow 3.3.2"]


@pytest.mark.parametrize(
    ("upgrade", "celery", "redis"),
    [
        (True, "5.6.3", "6.4"),
        ("true", "5.6.3", "6.4"),
        (["celery"], "5.6.3", "6.0"),
        ("celery, redis", "5.6.3", "6.4"),
        (False, "5.6.1", "6.0"),
        ("no", "5.6.1", "6.0"),
        ([], "5.6.1", "6.0"),
    ],
)
def test_upgrades(site: Site, upgrade: Any, celery: str, redis: str) -> None:
    site.write({"apache-airflow": "3.3.2", "celery": "5.6.1", "redis": "6.0"})
    site.call(upgrade=upgrade, requirements=["celery", "redis"])
    assert {name: pin.split()[0] for name, pin in site.pins().items()} == {
        "apache-airflow": "3.3.2",
        "celery": celery,
        "redis": redis,
    }


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_conflict_is_told_in_uvs_words(site: Site) -> None:
    site.write({"apache-airflow": "3.3.2"})
    site.failures = [("compile", 1, "error: No solution found\n  cause: you require celery>=5.7 and celery<5.7")]
    message = site.refused(constraints=["/role/limits.txt", "https://u:s3cret@example.org/c.txt"])
    assert "  found:   error: No solution found\n             cause: you require celery>=5.7 and celery<5.7" in message
    assert "Traceback" not in message and "/role/limits.txt" in message


def test_a_package_without_a_wheel(site: Site) -> None:
    words = "error: No solution\nhint: Wheels are required for `docopt` because building from source is disabled"
    site.failures = [("compile", 1, words)]
    message = site.refused(requirements=["docopt"])
    assert "packages without a wheel: docopt" in message and "airflow_build_packages: [docopt]" in message


@pytest.mark.parametrize(
    "words",
    [
        f"error: Failed to fetch: {INDEX}/boto3/\n  cause: dns error",
        "hint: An index URL (x) could not be queried due to a lack of valid authentication credentials (401)",
        "error: HTTP status client error (403 Forbidden)",
    ],
)
def test_an_index_that_does_not_answer(site: Site, words: str) -> None:
    site.failures = [("compile", 2, words)]
    message = site.refused(index_url=INDEX)
    assert "\npackage index\n" in message and "airflow_index_url" in message


@pytest.mark.parametrize(
    "words",
    [
        "error: Failed to build `psycopg2==2.9.11`\n  cause: The build backend returned an error\n\n         [stderr]\n"
        "         Error: pg_config executable not found. No such file or directory: 'pg_config'",
        "error: Failed to download and build `psycopg2==2.9.11`\n"
        "  cause: Failed to resolve requirements from `build-system.requires`\n"
        "  cause: No solution found when resolving: `setuptools`",
    ],
)
def test_a_build_that_the_control_node_cannot_do(site: Site, words: str) -> None:
    site.failures = [("compile", 1, words)]
    message = site.refused(requirements=["psycopg2"], build=["psycopg2"])
    assert "\nbuild of psycopg2==2.9.11\n" in message and "install on the control node" in message
    assert words.splitlines()[-1].strip() in message


def test_a_build_without_an_index_is_about_the_index(site: Site) -> None:
    words = (
        "error: Failed to build `psycopg2==2.9.11`\n  cause: Failed to fetch: https://packages.example.org/setuptools/"
    )
    site.failures = [("compile", 2, words)]
    assert "\npackage index\n" in site.refused(build=["psycopg2"])


def test_wheels_for_no_such_platform(site: Site) -> None:
    site.failures = [("--dry-run", 1, "pywin32==312 has no wheels with a matching platform tag")]
    message = site.refused()
    assert "found:   Python 3.10: pywin32==312 has no wheels with a matching platform tag" in message


def test_wheels_for_some_pythons_narrow_the_lock(site: Site) -> None:
    site.failures = [(f"{action.PLATFORM} --python-version 3.{minor}", 1, "x has no wheels") for minor in (10, 13)]
    site.call()
    header = lock_file.parse(site.lock.read_text()).header
    assert (header["python"], header["until"]) == ("3.11", "3.12")
    assert "The lock is for Python 3.11 to 3.12 only." in site.warnings[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"requirements": ["boto3=>1"]}, "boto3=>1: not a requirement"),
        ({"requirements": ["x @ https://robot:s3cret@example.org/x.whl"]}, "x: a direct URL"),
        ({"requirements": ["-r /etc/passwd"]}, "not a requirement"),
        ({"upgrade": {"celery": 1}}, "airflow_lock_upgrade"),
        ({"upgrade": ["--index-url=x"]}, "airflow_lock_upgrade"),
        ({"build": ["docopt==1"]}, "airflow_build_packages"),
        ({"extras": ["a]==1"]}, "airflow_extras"),
        ({"python": "3.9"}, "3.10 to 3.13"),
        ({"path": "/nonexistent/lock.txt"}, "no folder /nonexistent"),
    ],
)
def test_bad_options(site: Site, options: dict[str, Any], words: str) -> None:
    assert words in site.refused(**options)
    assert not site.log.exists(), "uv is not asked"


# -- wheels ----------------------------------------------------------------------------------------------------------


def test_a_wheel_is_built_once(site: Site) -> None:
    options: dict[str, Any] = {"requirements": ["docopt"], "build": ["DocOpt"], "index_url": INDEX}
    planned = site.call(check=True, **options)
    assert planned["changed"] and planned["built"] == ["docopt"] and not (site.lock.parent / ".wheels").exists()
    site.modules.clear()
    site.calls()
    done = site.call(**options)
    assert done["built"] == ["docopt"]
    (arguments,) = site.modules
    assert (arguments["name"], arguments["version"], arguments["hashes"]) == ("docopt", "0.6.2", [NEW])
    assert (arguments["dest"], arguments["index_url"]) == ("/remote", INDEX)
    wheel = site.lock.parent / ".wheels" / WHEEL
    assert wheel.read_bytes() == b"wheel"
    lock = lock_file.parse(site.lock.read_text())
    assert lock.pins[-1] == lock_file.Pin("docopt", "0.6.2", "", (action.digest_of(wheel),))
    assert (lock.wheels, lock.header["platform"]) == ([WHEEL], "linux x86_64")
    assert (lock.header["python"], lock.header["until"]) == ("3.11", "3.11")
    compiled, tried, *_ = site.calls()
    assert options_of(compiled[0], "--no-binary") == ["DocOpt"] and "--no-binary" not in tried[0]

    again = site.call(**options)
    assert (again["changed"], again["built"], len(site.modules)) == (False, [], 1)
    wheel.write_bytes(b"damaged")
    assert site.call(**options)["built"] == ["docopt"]
    assert wheel.read_bytes() == b"wheel"
    assert site.call(requirements=["boto3"])["changes"] == ["+ boto3 1.44", "- docopt 0.6.2"]
    assert not (site.lock.parent / ".wheels").exists()


def test_a_built_package_that_gets_a_wheel_of_its_own(site: Site) -> None:
    site.call(requirements=["docopt"], build=["docopt"])
    site.call(requirements=["docopt"])
    assert site.pins()["docopt"] == "0.6.2 11", "the index's hashes, not those of the wheel that was built"


def test_a_build_that_fails(site: Site) -> None:
    site.built = b""
    message = site.refused(requirements=["docopt"], build=["docopt"], index_url=INDEX)
    assert "wheel of docopt 0.6.2, built on control1" in message and "build-essential" in message


def test_a_wheel_that_is_damaged_on_its_way(site: Site) -> None:
    site.built = b"else"
    assert "damaged on its way" in site.refused(requirements=["docopt"], build=["docopt"])
    assert list((site.lock.parent / ".wheels").iterdir()) == []


# -- the installer and writing ---------------------------------------------------------------------------------------


def test_another_uv_than_the_pinned_one_is_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: Callable[..., Path] = mock.MagicMock(return_value=Path("/fetched"))
    monkeypatch.setattr(action, "install_uv", fetched)
    assert action.find_uv(UV, Path("/tools"), {}) == site.folder / "bin/uv"
    other = UV.replace("0.0.1", "0.0.12")
    assert action.find_uv(other, Path("/tools"), {"A": "b"}) == Path("/fetched")
    fetched.assert_called_once_with(Path("/tools"), other, sys.executable, {"A": "b"})  # type: ignore[attr-defined]


def test_an_interrupted_write_leaves_the_old_lock(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write({"celery": "1"})
    before = site.lock.read_text()
    monkeypatch.setattr(action.os, "fsync", mock.MagicMock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(AnsibleActionFail, match="No space left"):
        site.call()
    assert site.lock.read_text() == before
    assert [path.name for path in site.lock.parent.iterdir()] == [site.lock.name]
