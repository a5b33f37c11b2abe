"""release: bare, unchanged, check mode, drifted, failed and interrupted builds, retention, and the action plugin."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible_collections.dataops.airflow.plugins.action import release as action
from ansible_collections.dataops.airflow.plugins.module_utils import exchange
from ansible_collections.dataops.airflow.plugins.module_utils.installer import BuildError
from ansible_collections.dataops.airflow.plugins.modules import release as module

INDEX = "https://robot:s3cr3t-token@packages.example.org/simple"
UV = "# The installer.\nuv==0.0.1 \\\n    --hash=sha256:00\n"
# Stands for python, pip and uv. `venv` and `pip install` leave a copy of it where the real ones leave a program.
TOOL = """\
#!/bin/sh
echo "$(basename $0) $*" >> {log}
env >> {log}.environment
case "$(basename $0) $*" in
  "python -c "*) echo "3.11 $(realpath "$0")" ;;
  "python -m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/pip" ;;
  "pip install "*)
    for requirements; do :; done
    grep -q "^uv==.*" "$requirements" || exit 1
    cp "$0" "$(dirname $0)/uv" ;;
  "uv-"*" venv "*)
    for target; do :; done
    mkdir -p "$target/lib/python3.11/site-packages" ;;
  "uv-"*" pip sync "*)
    for lock; do :; done
    target=$5
    [ "$3" = --quiet ] && [ "$4" = --python ] || exit 9
    grep -v '^#' "$lock" | while read -r name version; do
      info="$target/lib/python3.11/site-packages/$name-$version.dist-info"
      mkdir "$info" && echo "$name.py,sha256=x,1" > "$info/RECORD"
      printf 'Name: %s\nVersion: %s\n' "$name" "$version" > "$info/METADATA"
      printf x > "$target/lib/python3.11/site-packages/$name.py"
    done
    grep -q broken "$lock" && {{ echo "hash mismatch for broken at $UV_DEFAULT_INDEX" >&2; exit 7; }}
    exit 0 ;;
  *) exit 8 ;;
esac
"""
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder with a fake interpreter and a lock."""
    (tmp_path / "python").write_text(TOOL.format(log=tmp_path / "log"))
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "lock.txt").write_text("# lock\napache_airflow 3.3.2\ncelery 5.5\n")
    return tmp_path


@pytest.fixture
def call(host: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the module in this process; its JSON answer."""

    def run(check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {
            "name": "3.3.2-abc",
            "root": str(host / "opt"),
            "lock_file": str(host / "lock.txt"),
            "uv": UV,
            "python": str(host / "python"),
            "index_url": INDEX,
            "_ansible_check_mode": check,
            **options,
        }
        capsys.readouterr()
        umask = os.umask(0o077)
        try:
            with patch_module_args({k: v for k, v in arguments.items() if v is not None}), pytest.raises(SystemExit):
                module.main()
        finally:
            os.umask(umask)
        output = capsys.readouterr().out
        assert "s3cr3t-token" not in output
        answer: dict[str, Any] = json.loads(output)
        return answer

    return run


def log(host: Path) -> list[str]:
    """Commands since the last call of this function."""
    path = host / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def releases(host: Path) -> list[str]:
    """Everything below releases/, hidden folders included."""
    folder = host / "opt/releases"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def packages(host: Path, name: str = "3.3.2-abc") -> Path:
    return host / "opt/releases" / name / "lib/python3.11/site-packages"


def test_bare_then_unchanged(host: Path, call: Call) -> None:
    planned = call(check=True)
    assert (planned["changed"], planned["fingerprint"], planned["packages"]) == (True, "", 0)
    assert not (host / "opt").exists()
    log(host)
    done = call()
    assert (done["changed"], done["packages"]) == (True, 2)
    assert done["path"] == str(host / "opt/releases/3.3.2-abc") and len(done["fingerprint"]) == 64
    assert releases(host) == ["3.3.2-abc"]
    assert sorted(path.name for path in (host / "opt").iterdir()) == ["releases", "uv"]
    assert [path.name for path in (host / "opt/uv").iterdir()] == ["uv-0.0.1"]
    release = host / "opt/releases/3.3.2-abc"
    assert (release / "lock.txt").read_text() == (host / "lock.txt").read_text()
    assert json.loads((release / "release.json").read_text())["fingerprint"] == done["fingerprint"]
    bill = json.loads((release / "sbom.cdx.json").read_text())
    assert [part["purl"] for part in bill["components"]] == ["pkg:pypi/apache-airflow@3.3.2", "pkg:pypi/celery@5.5"]
    # Services run as another user, whatever the umask of the connection.
    for path in (release, release / "lock.txt", release / "release.json", release / "sbom.cdx.json", packages(host)):
        assert path.stat().st_mode & 0o444 == 0o444
    log(host)
    again = call()
    assert (again["changed"], again["fingerprint"], again["diff"]) == (False, done["fingerprint"], {})
    assert all(line.startswith("python -c ") for line in log(host))
    assert call(check=True)["changed"] is False


def test_how_the_installer_is_called(host: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "of-the-host")
    authorities = host / "authorities.pem"
    authorities.touch()
    call(ca_bundle=str(authorities))
    sync = next(line for line in log(host) if "pip sync" in line)
    assert "--require-hashes" in sync and "--only-binary=:all:" in sync and "--compile-bytecode" in sync
    environment = (host / "log.environment").read_text()
    last = environment[environment.rindex("UV_CACHE_DIR") - 5000 :] if "UV_CACHE_DIR" in environment else ""
    for line in (
        f"UV_DEFAULT_INDEX={INDEX}",
        f"PIP_INDEX_URL={INDEX}",
        f"SSL_CERT_FILE={authorities}",
        f"PIP_CERT={authorities}",
        "UV_PYTHON_DOWNLOADS=never",
    ):
        assert line in last
    assert "UV_INDEX_URL=" not in last


def test_the_index_is_not_an_argument(host: Path, call: Call) -> None:
    call()
    assert "s3cr3t-token" not in "\n".join(log(host))
    files = [path for path in (host / "opt").rglob("*") if path.is_file()]
    assert files and all("s3cr3t-token" not in path.read_text() for path in files)


def test_without_an_index_the_installers_own_is_used(host: Path, call: Call) -> None:
    call(index_url="")
    assert "UV_DEFAULT_INDEX" not in (host / "log.environment").read_text()


def test_a_drifted_environment_is_built_again(host: Path, call: Call) -> None:
    first = call()
    foreign = packages(host) / "pandas-1.0.dist-info"
    foreign.mkdir()
    planned = call(check=True)
    assert planned["changed"] is True and foreign.exists()
    done = call()
    assert (done["changed"], done["fingerprint"]) == (True, first["fingerprint"])
    assert not foreign.exists() and releases(host) == ["3.3.2-abc"]
    assert call()["changed"] is False


def test_a_changed_file_list_is_drift(host: Path, call: Call) -> None:
    call()
    record = packages(host) / "celery-5.5.dist-info/RECORD"
    record.write_text("celery.py,sha256=other,1\n")
    assert call()["changed"] is True
    assert "other" not in record.read_text()


def test_another_interpreter_of_the_same_version_is_another_release(host: Path, call: Call) -> None:
    """The environment's own `python` is a link to it: with the old one, Airflow would go on running."""
    first = call()
    (host / "link").mkdir()
    (host / "link/python").symlink_to(host / "python")
    assert call(python=str(host / "link/python"))["changed"] is False, "another name of the same one"
    (host / "own").mkdir()
    other = host / "own/python"
    other.write_text((host / "python").read_text())
    other.chmod(0o755)
    planned = call(check=True, python=str(other), _ansible_diff=True)
    assert planned["changed"] is True
    assert f"interpreter: {host}/python -> {other}\n" in planned["diff"]["before"]
    done = call(python=str(other))
    assert (done["changed"], done["fingerprint"]) == (True, first["fingerprint"])
    assert f"uv-0.0.1 venv --quiet --relocatable --python {other} " in "\n".join(log(host))
    assert call(python=str(other))["changed"] is False


def test_an_unreadable_manifest_is_drift(host: Path, call: Call) -> None:
    first = call()
    manifest = host / "opt/releases/3.3.2-abc/release.json"
    whole = json.loads(manifest.read_text())
    broken = [{**whole, "distributions": {"a": []}}, {**whole, "distributions": [1]}]
    for text in ("", "{}", "[]", '{"fingerprint": ', "\0\0", *map(json.dumps, broken)):
        manifest.write_text(text)
        done = call(_ansible_diff=True)
        assert (done["changed"], done["fingerprint"]) == (True, first["fingerprint"])
        assert "release.json, which tells what was built, is damaged" in done["diff"]["before"]


@pytest.mark.parametrize("record", [b"celery.py,sha256=x,one\n", b"\xff\xfe,sha256=x,1\n", b"\0" * 60])
def test_a_damaged_record_is_drift(host: Path, call: Call, record: bytes) -> None:
    first = call()
    (packages(host) / "celery-5.5.dist-info/RECORD").write_bytes(record)
    for deep in (False, True):
        assert call(check=True, deep=deep)["changed"] is True
    done = call()
    assert (done["changed"], done["fingerprint"]) == (True, first["fingerprint"])


def test_what_no_package_owns_is_drift(host: Path, call: Call) -> None:
    call()
    for name in ("stray.py", "old-1.0.egg-info"):
        (packages(host) / name).touch()
        done = call(_ansible_diff=True)
        assert done["changed"] is True and f"no package: {name}" in done["diff"]["before"]
        assert not (packages(host) / name).exists() and call()["changed"] is False
    manifest = host / "opt/releases/3.3.2-abc/release.json"
    whole = json.loads(manifest.read_text())
    del whole["top"]
    manifest.write_text(json.dumps(whole))
    (packages(host) / "stray.py").touch()
    assert call()["changed"] is False, "a release from before that was written down stays"


def test_an_edit_without_a_trace_is_healed_by_a_deep_look(host: Path, call: Call) -> None:
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x").digest()).rstrip(b"=").decode()
    tool = host / "python"
    lines = f"$name.py,sha256={digest},1\n$name-$version.dist-info/RECORD,,\n$name-$version.dist-info/METADATA,,"
    tool.write_text(tool.read_text().replace("$name.py,sha256=x,1", lines))
    call()
    assert call(deep=True)["changed"] is False
    (packages(host) / "celery.py").write_text("y")
    os.utime(packages(host) / "celery.py", (1000, 1000))
    assert call()["changed"] is False
    done = call(deep=True, _ansible_diff=True)
    assert done["changed"] is True and "celery: celery.py was edited" in done["diff"]["before"]
    assert (packages(host) / "celery.py").read_text() == "x" and call(deep=True)["changed"] is False


def test_a_failed_build_leaves_nothing(host: Path, call: Call) -> None:
    (host / "lock.txt").write_text("celery 5.5\nbroken 1.0\n")
    answer = call()
    assert answer["failed"] is True
    assert "release 3.3.2-abc: uv-0.0.1 pip failed (7): hash mismatch for broken" in answer["msg"]
    assert releases(host) == [] and not (host / "opt/.cache.partial").exists()


def test_a_failed_rebuild_leaves_the_release(host: Path, call: Call) -> None:
    call()
    (packages(host) / "pandas-1.0.dist-info").mkdir()
    (host / "lock.txt").write_text("broken 1.0\n")
    assert call()["failed"] is True
    assert releases(host) == ["3.3.2-abc"] and (packages(host) / "celery-5.5.dist-info").exists()


@pytest.mark.parametrize("moment", ["venv", "pip sync", "manifest", "replace", "cleanup"])
def test_an_interrupted_build_is_started_over(
    host: Path, call: Call, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call()
    (packages(host) / "pandas-1.0.dist-info").mkdir()

    killed = []

    class Killed(BaseException):
        """The process ends here: it removes nothing any more, although `finally` runs in this test."""

        def __init__(self) -> None:
            killed.append(moment)

    real_run, real_replace, real_rmtree = module.run, module.replace, module.shutil.rmtree

    def run(argv: list[str], environment: dict[str, str]) -> str:
        output = real_run(argv, environment)
        if moment in " ".join(argv[1:3]) and "-m" not in argv:
            raise Killed
        return output

    def replace(new: Path, target: Path) -> None:
        if moment == "replace":
            raise Killed
        real_replace(new, target)

    def remove(path: Path) -> None:
        raise Killed

    def copyfile(source: str, target: Path) -> None:
        if moment == "manifest":
            raise Killed
        Path(target).write_bytes(Path(source).read_bytes())

    def rmtree(path: Path, **options: Any) -> None:
        if not killed:
            real_rmtree(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, "run", run)
        patch.setattr(module, "replace", replace)
        if moment == "cleanup":
            patch.setattr(exchange, "remove", remove)
        patch.setattr(module.shutil, "copyfile", copyfile)
        patch.setattr(module.shutil, "rmtree", rmtree)
        with pytest.raises(Killed):
            call()
    log(host)
    (packages(host) / "pandas-1.0.dist-info").mkdir(parents=True, exist_ok=True)
    done = call()
    assert done.get("failed") is None, done.get("msg")
    assert (done["changed"], done["fingerprint"]) == (True, first["fingerprint"])
    assert releases(host) == ["3.3.2-abc"] and not (host / "opt/.cache.partial").exists()


def test_another_installer_replaces_the_old_one(host: Path, call: Call) -> None:
    call()
    (host / "opt/uv/.partial-left-over").mkdir()
    call(name="3.3.2-def", uv=UV.replace("0.0.1", "0.0.2"))
    assert [path.name for path in (host / "opt/uv").glob("uv-*")] == ["uv-0.0.2"]


def test_an_installer_without_a_version_is_refused(call: Call) -> None:
    assert "must hold a line uv==VERSION" in call(uv="uv>=1")["msg"]


def test_retention_keeps_the_newest_and_the_current(host: Path, call: Call) -> None:
    for age, name in enumerate(["a", "b", "c", "d"]):
        call(name=name, keep=9)
        os.utime(host / "opt/releases" / name, (1000 + age, 1000 + age))
    (host / "opt/current").symlink_to("releases/a")
    call(name="e", keep=3)
    assert releases(host) == ["a", "d", "e"]
    call(name="e", keep=1)
    assert releases(host) == ["a", "d", "e"], "an unchanged run removes nothing"
    call(name="f", keep=1)
    assert releases(host) == ["a", "f"]
    assert (host / "opt/current").resolve().name == "a"


def test_the_way_back_is_told_and_kept(host: Path, call: Call) -> None:
    def switch(link: str, name: str) -> None:
        (host / "opt" / link).unlink(missing_ok=True)
        (host / "opt" / link).symlink_to(f"releases/{name}")

    assert call(name="a")["previous"] == "", "there was none before the first"
    switch("current", "a")
    assert call(name="a")["previous"] == "", "nothing is left"
    assert call(name="b", check=True)["previous"] == "releases/a"
    assert call(name="b", keep=1)["previous"] == "releases/a"
    switch("current", "b")
    switch("previous", "a")
    assert call(name="b")["previous"] == "releases/a", "a run without a switch forgets nothing"
    assert call(name="c", keep=1)["previous"] == "releases/b"
    assert releases(host) == ["a", "b", "c"], "until the switch, the old way back is the way back"
    assert call(name="b")["previous"] == "releases/a", "nor does a run that ended before the switch"


def test_a_rebuilt_release_is_another_one(host: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ran with the drifted packages is restarted, because release.json changed."""
    call()
    before = (host / "opt/releases/3.3.2-abc/release.json").read_text()
    (packages(host) / "pandas-1.0.dist-info").mkdir()
    monkeypatch.setattr(module.time, "strftime", lambda *_: "later")
    done = call(_ansible_diff=True)
    assert (host / "opt/releases/3.3.2-abc/release.json").read_text() != before
    assert "added: pandas 1.0" in done["diff"]["before"]


def tar_of(host: Path, *names: str) -> str:
    """A bundle as the action plugin sends it."""
    with tarfile.open(host / "wheels.tar", "w") as tar:
        for name in names:
            (host / Path(name).name).write_text(name)
            tar.add(host / Path(name).name, name)
    return str(host / "wheels.tar")


def test_wheels_that_were_sent_are_used(host: Path, call: Call) -> None:
    call(wheels_file=tar_of(host, "uv-0.0.1-py3-none-any.whl", "boto3-1-py3-none-any.whl"), no_index=True)
    lines = log(host)
    for word in ("pip install", "pip sync"):
        line = next(line for line in lines if word in line)
        assert "--find-links" in line and "--no-index" in line
    assert not (host / "opt/.cache.partial").exists()
    assert call(wheels_file=None, no_index=True)["changed"] is False


def test_a_bundle_writes_nowhere_else(host: Path) -> None:
    assert module.unpack(tar_of(host, "../evil.whl", "a.whl"), host / "to") == ["--find-links", str(host / "to")]
    assert [path.name for path in (host / "to").iterdir()] == ["a.whl"] and not (host / "evil.whl.x").exists()
    assert module.unpack(None, host / "no") == []


def test_a_full_disk_is_told_and_leaves_nothing(host: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    first = call()
    real_run = module.run

    def run(argv: list[str], environment: dict[str, str]) -> str:
        if "sync" in argv:
            (host / "opt/releases/.3.3.2-def.partial/half").write_text("written")
            raise BuildError("uv pip failed (2): No space left on device (os error 28)")
        return real_run(argv, environment)

    monkeypatch.setattr(module, "run", run)
    answer = call(name="3.3.2-def")
    assert answer["failed"] and "No space left on device" in answer["msg"]
    assert releases(host) == ["3.3.2-abc"] and call()["fingerprint"] == first["fingerprint"]


def test_a_missing_interpreter_is_a_failure(call: Call) -> None:
    assert call(python="/nonexistent/python")["failed"] is True


def test_the_lock_is_asked_for_only_where_it_is_needed(call: Call) -> None:
    assert call(lock_file=None)["lock_wanted"] is True
    call()
    assert "lock_wanted" not in call(lock_file=None)


# -- the action plugin -----------------------------------------------------------------------------------------------


def plugin(host: Path, call: Call, args: dict[str, Any]) -> tuple[action.ActionModule, list[dict[str, Any]]]:
    """The action plugin's real code around the module's real code, and the calls of the latter."""
    calls: list[dict[str, Any]] = []

    def execute(name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        assert name == "dataops.airflow.release"
        calls.append(module_args)
        return call(**{"lock_file": None, **module_args})

    shell = SimpleNamespace(tmpdir=None, join_path=os.path.join)
    task = mock.MagicMock(async_val=0, check_mode=False, diff=False, args=args)
    made = action.ActionModule(task, mock.MagicMock(_shell=shell), mock.MagicMock(), DataLoader(), None, None)
    remote = host / "remote"

    def make_tmp_path() -> None:
        remote.mkdir()
        shell.tmpdir = str(remote)

    def transfer(local: str, target: str) -> None:
        Path(target).write_bytes(Path(local).read_bytes())

    def remove(path: str, force: bool = False) -> None:
        for file in Path(path).iterdir():
            file.unlink()
        Path(path).rmdir()
        shell.tmpdir = None

    made._execute_module = execute
    made._make_tmp_path = make_tmp_path
    made._transfer_file = transfer
    made._remove_tmp_path = remove
    return made, calls


def test_the_lock_is_sent_only_where_it_is_needed(host: Path, call: Call) -> None:
    made, calls = plugin(host, call, {"name": "x", "lock": str(host / "lock.txt")})
    result = made.run(task_vars={})
    assert result["changed"] is True and result["packages"] == 2 and "lock_wanted" not in result
    assert ["lock_file" in arguments for arguments in calls] == [False, True]
    assert not (host / "remote").exists()
    made, calls = plugin(host, call, {"name": "x", "lock": str(host / "lock.txt")})
    assert made.run(task_vars={})["changed"] is False
    assert len(calls) == 1


def test_a_build_without_a_lock_is_refused(host: Path, call: Call) -> None:
    made, _calls = plugin(host, call, {"name": "x"})
    with pytest.raises(AnsibleActionFail, match="lock is missing"):
        made.run(task_vars={})
