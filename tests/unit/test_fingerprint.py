"""fingerprint: the same for the same packages in any order, another one for every difference that matters."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.module_utils import fingerprint as module
from ansible_collections.dataops.airflow.plugins.module_utils.fingerprint import digest, distributions
from ansible_collections.dataops.airflow.plugins.module_utils.installer import identify
from ansible_collections.dataops.airflow.plugins.modules import fingerprint as fingerprint_module


def fingerprint(folder: Path, python: str) -> str:
    return digest(distributions(folder), python)


def install(folder: Path, name: str, version: str, record: str | None = "a.py,sha256=x,1\nb.py,sha256=y,2\n") -> Path:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    if record is not None:
        (info / "RECORD").write_text(record)
    return info


def test_distributions_are_listed_with_normalized_names(tmp_path: Path) -> None:
    install(tmp_path, "Flask_AppBuilder", "4.6.3")
    install(tmp_path, "zope.interface", "1.0", record=None)
    (tmp_path / "not_a_distribution").mkdir()
    found = distributions(tmp_path)
    assert list(found) == ["flask-appbuilder", "zope-interface"]
    assert found["flask-appbuilder"][0] == "4.6.3"
    assert len(found["flask-appbuilder"][1]) == 64
    assert found["zope-interface"] == ("1.0", "")
    assert distributions(tmp_path / "missing") == {}


def test_order_and_bytecode_do_not_matter(tmp_path: Path) -> None:
    for name, lines in (("one", "a.py,h,1\nb.py,h,2\n"), ("two", "b.py,h,2\na.py,h,1\n")):
        for package in ("x", "y") if name == "one" else ("y", "x"):
            install(tmp_path / name, package, "1.0", lines)
    (tmp_path / "two/x/__pycache__").mkdir(parents=True)
    assert fingerprint(tmp_path / "one", "3.11") == fingerprint(tmp_path / "two", "3.11")


def test_how_a_package_came_does_not_matter(tmp_path: Path) -> None:
    """From an index or from a folder, which uv notes with the time."""
    install(tmp_path / "one", "x", "1.0", "a.py,h,1\nx-1.0.dist-info/INSTALLER,h,1\n")
    install(
        tmp_path / "two", "x", "1.0", "a.py,h,1\nx-1.0.dist-info/uv_cache.json,h,1\nx-1.0.dist-info/INSTALLER,i,1\n"
    )
    assert fingerprint(tmp_path / "one", "3.11") == fingerprint(tmp_path / "two", "3.11")


def test_every_difference_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "a", "1.0")
    seen = [fingerprint(tmp_path, "3.11"), fingerprint(tmp_path, "3.12")]
    record = install(tmp_path, "b", "1.0") / "RECORD"
    seen.append(fingerprint(tmp_path, "3.11"))
    record.write_text(record.read_text().replace("sha256=x", "sha256=z"))
    seen.append(fingerprint(tmp_path, "3.11"))
    record.parent.rename(tmp_path / "b-1.1.dist-info")
    seen.append(fingerprint(tmp_path, "3.11"))
    monkeypatch.setattr(platform, "machine", lambda: "other")
    seen.append(fingerprint(tmp_path, "3.11"))
    assert len(set(seen)) == len(seen)
    assert all(len(digest) == 64 for digest in seen)


PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def hashed(content: str) -> str:
    value = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
    return f"sha256={value}"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release with one real package, as `current` points at it."""
    folder = tmp_path / "releases/3.3.2-abc"
    packages = module.site_packages(folder, PYTHON)
    packages.mkdir(parents=True)
    (packages / "real.py").write_text("a = 1\n")
    (folder / "bin").mkdir()
    (folder / "bin/real").write_text("#!/bin/sh\n")
    record = f"real.py,{hashed('a = 1' + chr(10))},6\n../../../bin/real,{hashed('#!/bin/sh' + chr(10))},10\n"
    install(packages, "real", "1.0", record + "real-1.0.dist-info/RECORD,,\n")
    install(packages, "celery", "5.6.2", "celery-5.6.2.dist-info/RECORD,,\n")
    installed = distributions(packages)
    (folder / "release.json").write_text(
        json.dumps({"python": PYTHON, "fingerprint": digest(installed, PYTHON), "distributions": installed})
    )
    (tmp_path / "current").symlink_to("releases/3.3.2-abc")
    (tmp_path / "wanted").write_text("3.3.2-abc\n")
    return folder


def drift(release: Path, deep: bool = False) -> str:
    found = module.inspect(release, PYTHON, deep)
    assert found["intact"] is (module.describe(found["drift"]) == "")
    return module.describe(found["drift"])


def test_drift_is_named(release: Path) -> None:
    packages = module.site_packages(release, PYTHON)
    assert drift(release) == ""
    install(packages, "pandas", "2.3.0", "pandas-2.3.0.dist-info/RECORD,,\n")
    (packages / "celery-5.6.2.dist-info").rename(packages / "celery-5.7.0.dist-info")
    assert drift(release) == "added: pandas 2.3.0; changed: celery 5.6.2 -> 5.7.0"
    (packages / "celery-5.7.0.dist-info/RECORD").unlink()
    (packages / "celery-5.7.0.dist-info").rmdir()
    record = packages / "real-1.0.dist-info/RECORD"
    record.write_text(record.read_text() + "more.py,,\n")
    assert drift(release) == "added: pandas 2.3.0; removed: celery 5.6.2; changed: real 1.0 (another list of files)"


def test_files_that_were_edited_in_place_are_named(release: Path) -> None:
    packages = module.site_packages(release, PYTHON)
    assert drift(release, deep=True) == ""
    (packages / "stray.py").touch()
    (packages / "__pycache__").mkdir()
    (packages / "__pycache__/real.cpython-311.pyc").touch()
    assert drift(release) == "", "a release.json without the names is one of before: stray.py is for verify.yml"
    (packages / "real.py").write_text("a = 2\n")
    assert drift(release) == "edited: real: real.py was edited", "written after the build"
    os.utime(packages / "real.py", (1000, 1000))
    assert drift(release) == "", "an edit that hides its time and keeps the size is found by the hashes"
    assert drift(release, deep=True) == "edited: no package: stray.py, real: real.py was edited"
    (packages / "real.py").write_text("a = 22\n")
    os.utime(packages / "real.py", (1000, 1000))
    assert drift(release) == "edited: real: real.py was edited", "another size"
    assert start(release, "/bin/echo").returncode == module.REFUSED
    (packages / "real.py").unlink()
    assert drift(release) == "edited: real: real.py is missing"
    (release / "bin/real").write_text("#!/bin/other\n")
    told = drift(release, deep=True)
    assert "real: real.py is missing" in told and "bin/real was edited" in told


def rewrite(release: Path, **values: object) -> None:
    """Change the manifest, not the time of the build."""
    path = release / "release.json"
    built = path.stat().st_mtime_ns
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    os.utime(path, ns=(built, built))


def test_what_no_package_owns_is_seen_at_each_start(release: Path) -> None:
    packages = module.site_packages(release, PYTHON)
    rewrite(release, top=module.top_names(packages))
    (packages / "real").mkdir()
    (packages / "real/__pycache__").mkdir()
    rewrite(release, top=module.top_names(packages))
    (packages / "__pycache__").mkdir()
    (packages / "bytecode.pyc").touch()
    assert drift(release) == drift(release, deep=True) == "", "as it was built, and bytecode"
    (packages / "old_style-1.0-py3.11.egg-info").mkdir()
    (packages / "old_style-1.0-py3.11.egg-info/PKG-INFO").touch()
    (packages / "stray.py").touch()
    told = "edited: no package: old_style-1.0-py3.11.egg-info, no package: stray.py"
    assert drift(release) == told
    assert drift(release, deep=True) == told.replace("egg-info,", "egg-info/PKG-INFO,")
    assert "no package: stray.py" in start(release, "/bin/echo").stderr


def test_a_package_that_came_is_named_once(release: Path) -> None:
    packages = module.site_packages(release, PYTHON)
    rewrite(release, top=module.top_names(packages))
    (packages / "pandas").mkdir()
    (packages / "pandas/core.py").touch()
    os.utime(packages / "pandas/core.py", (1000, 1000))
    install(packages, "pandas", "2.3.0", f"pandas/core.py,{hashed('')},0\npandas-2.3.0.dist-info/RECORD,,\n")
    assert drift(release) == "added: pandas 2.3.0"


def test_what_only_the_hashes_find_is_hidden(release: Path) -> None:
    packages = module.site_packages(release, PYTHON)

    def hidden(deep: bool = True) -> object:
        return module.inspect(release, PYTHON, deep)["hidden"]

    assert not hidden()
    (packages / "real.py").write_text("a = 2\n")
    assert not hidden(), "its time tells"
    os.utime(packages / "real.py", (1000, 1000))
    assert hidden() and not hidden(deep=False)
    install(packages, "pandas", "2.3.0", "")
    assert not hidden(), "another difference heals it, too"


def test_the_deep_look_sees_what_each_start_sees(release: Path) -> None:
    packages = module.site_packages(release, PYTHON)
    (packages / "real.py").write_text("a = 1\n")
    assert drift(release) == drift(release, deep=True) == "edited: real: real.py was edited", "written, but the same"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        b"real.py,sha256=x,six\n",
        b"\xff\xfe.py,sha256=x,1\n",
        b"a\0b,sha256=x,1\n",
        b'"a\0b,sha256=x,1\n',
        b"\0" * 99,
        b"real.py,crc=x,6\n",
        b"../site-packages,sha256=x,\n",
    ],
)
def test_a_damaged_record_is_drift(release: Path, line: bytes, deep: bool) -> None:
    (module.site_packages(release, PYTHON) / "celery-5.6.2.dist-info/RECORD").write_bytes(line)
    assert "changed: celery 5.6.2 (another list of files)" in drift(release, deep)
    assert "celery 5.6.2 (another list" in start(release, "/bin/echo").stderr


def test_another_interpreter_is_drift_where_that_is_asked(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A release to go back to, and a start, need the version only."""
    _version, own = identify(sys.executable)
    manifest = json.loads((release / "release.json").read_text())

    def answer(**options: bool) -> tuple[bool, str]:
        arguments = {"release": str(tmp_path / "current"), "python": sys.executable, **options}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            fingerprint_module.main()
        found = json.loads(capsys.readouterr().out)
        return found["intact"], found["told"]

    for built in (own, "/opt/other/bin/python3"):
        (release / "release.json").write_text(json.dumps({**manifest, "interpreter": built}))
        assert answer() == (True, "")
        assert start(release, "/bin/echo").returncode == 0
        told = "" if built == own else f"interpreter: {built} -> {own}"
        assert answer(same_interpreter=True) == (not told, told)


def test_an_interpreter_has_one_name(tmp_path: Path) -> None:
    version, own = identify(sys.executable)
    assert version == PYTHON and not Path(own).is_symlink()
    (tmp_path / "python").symlink_to(own)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--copies", str(tmp_path / "venv")], check=True)
    for other in (own, tmp_path / "python", tmp_path / "venv/bin/python"):
        assert identify(str(other)) == (version, own)


def start(release: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Start a command through the gate, as a unit does."""
    top = release.parents[1]
    argv = [sys.executable, "-I", "-S", str(module.__file__), str(top / "current"), str(top / "wanted"), *command]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_gate_becomes_the_command(release: Path) -> None:
    begun = time.monotonic()
    done = start(release, "/bin/echo", "celery", "worker")
    assert (done.returncode, done.stdout, done.stderr) == (0, "celery worker\n", "")
    assert time.monotonic() - begun < 1


def test_the_gate_refuses_what_is_not_the_clusters(release: Path) -> None:
    top = release.parents[1]
    install(module.site_packages(release, PYTHON), "pandas", "2.3.0", "")
    done = start(release, "/bin/echo", "worker")
    assert (done.returncode, done.stdout) == (module.REFUSED, "")
    for word in ("echo worker is not started", "added: pandas 2.3.0", "site.yml"):
        assert word in done.stderr
    (top / "wanted").write_text("3.3.2-def\n")
    assert "the cluster runs 3.3.2-def" in start(release, "/bin/echo").stderr
    (top / "wanted").unlink()
    done = start(release, "/bin/echo")
    assert done.returncode == module.REFUSED and "wanted" in done.stderr


def test_the_gate_refuses_another_python(release: Path) -> None:
    manifest = json.loads((release / "release.json").read_text())
    (release / "release.json").write_text(json.dumps({**manifest, "python": "3.9"}))
    done = start(release, "/bin/echo")
    assert done.returncode == module.REFUSED and f"built for Python 3.9; this host has {PYTHON} now" in done.stderr


def test_the_gate_refuses_whatever_is_broken(release: Path) -> None:
    done = start(release, "/nonexistent/airflow", "worker")
    assert done.returncode == module.REFUSED and "FileNotFoundError" in done.stderr
    manifest = json.loads((release / "release.json").read_text())
    (release / "release.json").write_text(json.dumps({**manifest, "distributions": {"a": []}}))
    assert start(release, "/bin/echo").returncode == module.REFUSED


def test_a_second_folder_of_a_package_counts(release: Path) -> None:
    install(module.site_packages(release, PYTHON), "celery", "5.10.0", "")
    assert drift(release) == "changed: celery 5.6.2 -> 5.10.0 and 5.6.2"


def test_the_gate_refuses_a_changed_manifest(release: Path) -> None:
    whole = json.loads((release / "release.json").read_text())
    broken = [{**whole, "distributions": {"a": entry}} for entry in ([], "ab", None, ["1"])]
    for text in ("", "{}", "[]", "\0\0", *map(json.dumps, broken)):
        (release / "release.json").write_text(text)
        done = start(release, "/bin/echo")
        assert done.returncode == module.REFUSED and "Traceback" not in done.stderr
        assert "release.json, which tells what was built, is damaged" in done.stderr
        assert drift(release, deep=True) == drift(release)
