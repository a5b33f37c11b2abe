"""tree: digest, bare, unchanged, changed, check mode, diff, interrupted, hand-edited, retention and bad input."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import stat
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible import constants
from ansible.errors import AnsibleError
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible_collections.dataops.airflow.plugins.action import tree as action
from ansible_collections.dataops.airflow.plugins.module_utils import exchange, tree_digest
from ansible_collections.dataops.airflow.plugins.module_utils.tree_digest import DEFAULT_EXCLUDE
from ansible_collections.dataops.airflow.plugins.module_utils.turn import turn
from ansible_collections.dataops.airflow.plugins.modules import tree as module

from tests.playbook import run_playbook

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
Deliver = Callable[..., dict[str, Any]]


def run_module(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    capsys.readouterr()
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.fixture
def deliver(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Deliver:
    """The action plugin's real code around the module's real code, in this process."""
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(local))

    def call(check: bool = False, diff: bool = True, **args: Any) -> dict[str, Any]:
        calls = []

        def execute(module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
            calls.append(module_args)
            return run_module(capsys, **module_args, _ansible_check_mode=check, _ansible_diff=diff)

        task = mock.MagicMock(async_val=0, check_mode=check, diff=diff)
        task.args = {
            "src": str(tmp_path / "src"),
            "dest": str(tmp_path / "dest"),
            "owner": OWNER,
            "group": GROUP,
            **args,
        }
        task.args = {key: value for key, value in task.args.items() if value is not None}
        shell = SimpleNamespace(tmpdir=None, join_path=os.path.join)
        plugin = action.ActionModule(task, mock.MagicMock(_shell=shell), mock.MagicMock(), DataLoader(), None, None)
        remote = tmp_path / "remote"

        def make_tmp_path() -> None:
            remote.mkdir(exist_ok=True)
            shell.tmpdir = str(remote)

        with mock.patch.multiple(
            plugin,
            _execute_module=execute,
            _find_needle=lambda _dir, needle: needle,
            _make_tmp_path=make_tmp_path,
            _remove_tmp_path=lambda path: None,
            _transfer_file=shutil.copyfile,
            _fixup_perms2=lambda paths: None,
        ):
            result = plugin.run(task_vars={})
        result["calls"] = len(calls)
        assert "transfer" not in result and "manifest" not in json.dumps(result.get("invocation", {}))
        return dict(result)

    return call


@pytest.fixture
def src(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    (root / "sub/deep").mkdir(parents=True)
    (root / "a.py").write_text("a = 1\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o700)
    (root / "sub/é b\\.sql").write_bytes(b"\x00\xff")
    (root / "sub/deep/empty").touch()
    (root / "sub/up.py").symlink_to("../a.py")
    (root / "folder").symlink_to("sub")
    for junk in (
        "__pycache__/a.cpython-311.pyc",
        "sub/x.pyc",
        ".git/HEAD",
        "sub/.a.py.swp",
        ".mypy_cache/x",
        "hollow/.DS_Store",
    ):
        (root / junk).parent.mkdir(exist_ok=True)
        (root / junk).write_text("junk")
    return root


FILES = {"a.py", "run.sh", "sub/é b\\.sql", "sub/deep/empty", "sub/up.py", "folder"}


def snapshot(root: Path) -> dict[str, Any]:
    return {str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in sorted(root.rglob("*"))}


def delivered(dest: Path) -> list[str]:
    return sorted(path.name for path in dest.iterdir() if path.name not in ("current", "previous"))


@pytest.fixture(autouse=True)
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_digest_ignores_what_does_not_matter(src: Path, tmp_path: Path) -> None:
    manifest = tree_digest.scan(str(src), DEFAULT_EXCLUDE)
    assert set(manifest) == FILES
    digest = tree_digest.digest(manifest)
    assert tree_digest.DIGEST.fullmatch(digest)
    other = tmp_path / "other"
    shutil.copytree(src, other, symlinks=True)
    for path in other.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 1))
            path.chmod(path.stat().st_mode | 0o066)
            os.chown(path, *((1, 1) if os.getuid() == 0 else (-1, -1)))
    (other / "new and empty").mkdir()
    assert tree_digest.scan(str(other), DEFAULT_EXCLUDE) == manifest


def test_digest_is_fixed() -> None:
    """A changed algorithm would make every host's folder look like another one."""
    manifest = {"b": "f " + "0" * 64, "a/é": "x " + "1" * 64, "a/b": "l ../b"}
    assert tree_digest.digest(manifest) == tree_digest.digest(dict(reversed(manifest.items()))) == "2825b582629d4cef"
    assert tree_digest.unpack(tree_digest.pack(manifest)) == manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda src: (src / "a.py").write_text("a = 2\n"),
        lambda src: (src / "a.py").chmod(0o755),
        lambda src: (src / "a.py").rename(src / "b.py"),
        lambda src: (src / "new").touch(),
        lambda src: (src / "sub/deep/empty").unlink(),
        lambda src: ((src / "folder").unlink(), (src / "folder").symlink_to("sub/deep")),
        lambda src: ((src / "folder").unlink(), (src / "folder").write_text("sub")),
    ],
)
def test_digest_sees_what_matters(src: Path, change: Callable[[Path], Any]) -> None:
    before = tree_digest.digest(tree_digest.scan(str(src), DEFAULT_EXCLUDE))
    change(src)
    assert tree_digest.digest(tree_digest.scan(str(src), DEFAULT_EXCLUDE)) != before


def test_exclude_patterns(src: Path) -> None:
    assert set(tree_digest.scan(str(src), ["sub/*", "[!a]*"])) == {"a.py"}
    assert "sub/deep/empty" not in tree_digest.scan(str(src), ["deep"])
    assert ".git/HEAD" in tree_digest.scan(str(src), [])


def test_bare_unchanged_changed(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    dest, current = tmp_path / "dest", tmp_path / "dest/current"
    planned = deliver(check=True)
    assert planned["changed"] and planned["previous"] is None and planned["calls"] == 1 and not dest.exists()
    first = deliver()
    assert {**planned, "calls": 2} == first
    assert first["path"] == str(current) and str(current.readlink()) == first["digest"]
    assert delivered(dest) == [first["digest"]], "leftovers"
    assert tree_digest.scan(str(current), []) == tree_digest.scan(str(src), DEFAULT_EXCLUDE)
    modes = {name: stat.S_IMODE((current / name).stat().st_mode) for name in ("", "sub", "sub/deep", "a.py", "run.sh")}
    assert modes == {"": 0o755, "sub": 0o755, "sub/deep": 0o755, "a.py": 0o644, "run.sh": 0o755}
    assert stat.S_IMODE(dest.stat().st_mode) == 0o755
    assert (current / "a.py").stat().st_mtime > time.time(), "Python trusts its .pyc files by the time of the source"
    assert set(first["diff"][0]["after"].splitlines()) == {
        f"{path}  {what[:14]}" for path, what in tree_digest.scan(str(src), DEFAULT_EXCLUDE).items()
    }

    before = snapshot(dest)
    (src / "a.py").touch()
    for check in (False, True):
        again = deliver(check=check)
        assert not again["changed"] and again["calls"] == 1 and again["diff"] == []
        assert again["previous"] == again["digest"] == first["digest"]
    assert snapshot(dest) == before

    (src / "a.py").write_text("a = 2\n")
    (src / "run.sh").unlink()
    (src / "new.py").write_text("")
    planned = deliver(check=True)
    assert snapshot(dest) == before
    second = deliver()
    assert {**planned, "calls": 2} == second and second["changed"]
    assert second["previous"] == first["digest"] != second["digest"] and current.resolve().name == second["digest"]
    part = second["diff"][0]
    assert part["before_header"] == f"{current} -> {first['digest']}" and part["after_header"].endswith(
        second["digest"]
    )
    assert [line.split()[0] for line in part["before"].splitlines()] == ["a.py", "run.sh"]
    assert [line.split()[0] for line in part["after"].splitlines()] == ["a.py", "new.py"]
    assert "diff" not in deliver(diff=False)


def test_going_back_needs_no_transfer(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    first = deliver()
    (src / "a.py").write_text("a = 2\n")
    second = deliver()
    (src / "a.py").write_text("a = 1\n")
    back = deliver()
    assert back["changed"] and back["calls"] == 1
    assert (back["digest"], back["previous"]) == (first["digest"], second["digest"])


def test_keep(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    dest = tmp_path / "dest"
    digests = []
    for number in range(4):
        (src / "a.py").write_text(f"a = {number}\n")
        digests.append(deliver()["digest"])
        time.sleep(0.01)
    assert delivered(dest) == sorted(digests[1:])
    (dest / "notes").mkdir()
    (dest / "0123456789abcdef").write_text("a file, not ours")
    (src / "a.py").write_text("a = 1\n")
    deliver()  # the oldest is used again, so it is not the next to go
    (src / "a.py").write_text("a = 9\n")
    planned = deliver(check=True, keep=2)
    assert planned["diff"][-1]["before"].split() == sorted(digests[2:])
    newest = deliver(keep=2)["digest"]
    assert delivered(dest) == sorted(["notes", "0123456789abcdef", newest, digests[1]])
    lowered = deliver(keep=1)
    assert lowered["changed"] and lowered["calls"] == 1 and not deliver(keep=1)["changed"]
    assert delivered(dest) == sorted(["notes", "0123456789abcdef", newest])


@pytest.mark.parametrize("swap", [True, False])
def test_hand_edited_is_replaced(
    src: Path, tmp_path: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    if not swap:
        monkeypatch.setattr(exchange, "exchange", lambda one, other: False)
    dest, current = tmp_path / "dest", tmp_path / "dest/current"
    first = deliver()
    (current / "a.py").write_text("edited\n")
    (current / "added.py").write_text("")
    (current / "run.sh").unlink()
    before = snapshot(dest)
    planned = deliver(check=True)
    assert planned["changed"] and snapshot(dest) == before
    fixed = deliver()
    assert {**planned, "calls": 2} == fixed and fixed["previous"] == fixed["digest"] == first["digest"]
    assert [line.split()[0] for line in fixed["diff"][0]["before"].splitlines()] == ["a.py", "added.py"]
    assert [line.split()[0] for line in fixed["diff"][0]["after"].splitlines()] == ["a.py", "run.sh"]
    assert tree_digest.scan(str(current), []) == tree_digest.scan(str(src), DEFAULT_EXCLUDE)
    assert delivered(dest) == [first["digest"]]
    assert not deliver()["changed"]


def test_exchange_swaps_here(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("b")
    if exchange.exchange(tmp_path / "a", tmp_path / "b"):  # not every file system can
        assert (tmp_path / "b").is_dir() and (tmp_path / "a").read_text() == "b"
    assert not exchange.exchange(tmp_path / "a", tmp_path / "missing")


def test_wrong_mode_is_repaired_and_caches_are_not_ours(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    current = tmp_path / "dest/current"
    deliver()
    (current / "__pycache__").mkdir()
    (current / "__pycache__/a.cpython-311.pyc").write_text("")
    assert not deliver()["changed"]
    (current / "a.py").chmod(0o600)
    (current / "sub").chmod(0o700)
    planned, fixed = deliver(check=True), deliver()
    assert fixed["changed"] and planned["diff"] == fixed["diff"]
    ids = f"{os.getuid()}:{os.getgid()}"
    assert fixed["diff"][0]["before"] == f"sub  {ids} 0700\na.py  {ids} 0600\n"
    assert fixed["diff"][0]["after"] == f"sub  {ids} 0755\na.py  {ids} 0644\n"
    assert not deliver()["changed"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give files away")
def test_owner(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    deliver()
    given = deliver(owner="daemon", group="54321")
    assert given["changed"] and not deliver(owner="daemon", group="54321")["changed"]
    current = tmp_path / "dest/current"
    found = {(path.lstat().st_uid, path.lstat().st_gid) for path in [current.resolve(), *current.resolve().rglob("*")]}
    assert found == {(pwd.getpwnam("daemon").pw_uid, 54321)}


def test_unknown_owner(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    assert deliver(check=True, owner="nobody-here", group="nor-here")["changed"]
    failed = deliver(owner="nobody-here")
    assert failed["failed"] and "owner 'nobody-here' does not exist on this host" in failed["msg"]
    assert f"{tmp_path}/dest: " in failed["msg"] and not (tmp_path / "dest").exists()
    deliver()
    assert deliver(check=True, group="nor-here")["changed"]


@pytest.mark.parametrize("moment", ["fill", "place", "switch"])
def test_interrupted(src: Path, tmp_path: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Killed outright: not even the clean-up code runs."""
    first = deliver()["digest"]
    (src / "a.py").write_text("a = 2\n")
    dest = tmp_path / "dest"
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove", lambda path: None)
        if moment == "fill":
            patch.setattr(shutil, "copyfileobj", mock.Mock(side_effect=OSError(28, "No space left on device")))
        elif moment == "place":
            patch.setattr(module, "replace", mock.Mock(side_effect=OSError(5, "I/O error")))
        else:
            patch.setattr(Path, "replace", mock.Mock(side_effect=OSError(5, "I/O error")))
        with mock.patch.object(action, "archive", wraps=lambda *args: pack_first(*args)):
            failed = deliver()
    assert failed["failed"] and f"{dest}: [Errno" in failed["msg"]
    assert str((dest / "current").readlink()) == first and (dest / "current/a.py").read_text() == "a = 1\n"
    assert len(delivered(dest)) == (3 if moment == "switch" else 2), "the interruption left something"
    done = deliver()
    assert done["changed"] and done["previous"] == first
    assert delivered(dest) == sorted([first, done["digest"]]) and (dest / "current/a.py").read_text() == "a = 2\n"


def pack_first(src: str, manifest: tree_digest.Manifest) -> str:
    """archive() without Path.replace, which one case above has made fail."""
    path = Path(constants.DEFAULT_LOCAL_TMP, "archive")
    with tarfile.open(path, "w:gz") as tar:
        for name, what in manifest.items():
            if not what.startswith("l "):
                tar.add(Path(src, name), name)
    return str(path)


def test_leftovers_go_without_a_change(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    first = deliver()["digest"]
    dest = tmp_path / "dest"
    (dest / f".{first}.partial/x").mkdir(parents=True)
    (dest / f".{first}.old").symlink_to("/")
    (dest / ".current.new").symlink_to("x")
    (dest / ".other").touch()
    assert not deliver(check=True)["changed"] and len(delivered(dest)) == 5
    assert not deliver()["changed"] and delivered(dest) == [".other", first]


def test_source_changes_during_the_run(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    real: Callable[..., str] = action.archive

    def late(path: str, manifest: tree_digest.Manifest) -> str:
        (src / "a.py").write_text("late\n")
        return real(path, manifest)

    with mock.patch.object(action, "archive", late):
        failed = deliver()
    assert failed["failed"] and "is not the source (a.py)" in failed["msg"]
    assert delivered(tmp_path / "dest") == [] and not (tmp_path / "dest/current").is_symlink()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a.py/../../evil", "unlisted", "folder/evil"])  # noqa: S108
def test_archive_cannot_write_elsewhere(
    src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "x").write_text("evil")
    manifest = tree_digest.scan(str(src), DEFAULT_EXCLUDE)
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        info = tar.gettarinfo(str(tmp_path / "x"))
        info.name = name
        with (tmp_path / "x").open("rb") as file:
            tar.addfile(info, file)
    arguments = {
        "dest": str(tmp_path / "dest"),
        "owner": OWNER,
        "group": GROUP,
        "archive": str(tmp_path / "evil.tar.gz"),
    }
    failed = run_module(capsys, manifest=tree_digest.pack(manifest), **arguments)
    assert failed["failed"] and "which the manifest does not" in failed["msg"]
    assert not list(tmp_path.rglob("evil")) and delivered(tmp_path / "dest") == []


@pytest.mark.parametrize(
    "manifest",
    [
        {"../x": "f " + "0" * 64},
        {"/x": "f " + "0" * 64},
        {"a/../../x": "f " + "0" * 64},
        {"": "f " + "0" * 64},
        {"a": "l b", "a/x": "f " + "0" * 64},
        {"a": "l /etc"},
        {"a/b": "l ../../etc"},
        {"a": "s"},
        {"a": "n"},
    ],
)
def test_bad_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: dict[str, str]) -> None:
    failed = run_module(capsys, manifest=tree_digest.pack(manifest), dest=str(tmp_path / "d"), owner=OWNER, group=GROUP)
    assert (
        failed["failed"] and next(reversed(manifest)).split("/")[0] in failed["msg"] and not (tmp_path / "d").exists()
    )


def break_with_link(src: Path, target: str) -> None:
    (src / "sub/bad").symlink_to(target)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda src: break_with_link(src, "/etc/passwd"), "sub/bad: is a symbolic link to /etc/passwd"),
        (lambda src: break_with_link(src, "../../outside"), "sub/bad: is a symbolic link to ../../outside"),
        (lambda src: ((src / "far").symlink_to("sub/deep"), (src / "out").symlink_to("far/../../../x")), "inside"),
        (
            lambda src: (
                (src / "sub/deep/in").symlink_to("../../a.py"),
                (src / "sub/deep/d").symlink_to("../.."),
                (src / "out").symlink_to("sub/deep/d/../x"),
            ),
            "leads out of the folder",
        ),
        (lambda src: os.mkfifo(src / "pipe"), "pipe: is neither a file"),
        (lambda src: Path(os.fsdecode(os.fsencode(src) + b"/\xff")).touch(), "is not UTF-8"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_bad_source(src: Path, tmp_path: Path, deliver: Deliver, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(src)
    with pytest.raises(AnsibleError, match=message):
        deliver()
    assert not (tmp_path / "dest").exists()


def test_link_loops_do_no_harm(src: Path, deliver: Deliver) -> None:
    (src / "one").symlink_to("two")
    (src / "two").symlink_to("one")
    assert deliver()["changed"] and not deliver()["changed"]


def test_bad_destination(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    assert "keep must be at least 1" in deliver(keep=0)["msg"]
    with pytest.raises(AnsibleError, match="src"):
        deliver(src=None)
    with pytest.raises(AnsibleError, match="manifest"):
        deliver(manifest="x")
    assert "dest must be an absolute path" in deliver(dest="~/dags")["msg"]
    assert "No such file" in deliver(dest=str(tmp_path / "no/parent"))["msg"]
    assert deliver(dest=str(tmp_path / "no/parent"), check=True)["changed"]
    (tmp_path / "file").touch()
    assert "is not a folder" in deliver(dest=str(tmp_path / "file"))["msg"]
    (tmp_path / "dest/current").mkdir(parents=True)
    assert "'current' is not a symbolic link" in deliver()["msg"] and "current" in deliver(state="query")["msg"]


def test_module_needs_its_action_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "action plugin" in run_module(capsys, dest=str(tmp_path), owner=OWNER, group=GROUP)["msg"]


def test_query(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    def query() -> tuple[Any, ...]:
        answer = deliver(state="query", src=None)
        assert not answer["changed"] and answer["calls"] == 1 and answer["path"] == str(tmp_path / "dest/current")
        return answer["digest"], answer["recorded"]

    assert query() == (None, None)
    expected = deliver(state="query")
    assert expected["recorded"] is None and not (tmp_path / "dest").exists()
    digest = deliver()["digest"]
    assert expected["source"] == digest == deliver(state="query")["source"]
    assert query() == (digest, digest)
    (tmp_path / "dest/current/a.py").write_text("edited")
    found, recorded = query()
    assert recorded == digest and found not in (None, digest)
    shutil.rmtree(tmp_path / "dest" / digest)
    assert query() == (None, digest)
    assert deliver()["changed"]
    (tmp_path / "dest/current").unlink()
    (tmp_path / "dest/current").symlink_to("/etc")
    assert query() == (None, "/etc")
    switched = deliver()
    assert switched["changed"] and switched["previous"] is None and query() == (digest, digest)


def test_delivered_but_not_switched(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    dest, current = tmp_path / "dest", tmp_path / "dest/current"
    first = deliver(revision="one")
    (src / "a.py").write_text("a = 2\n")
    for check in (True, False):
        there = deliver(switch=False, revision="two", keep=1, check=check)
        assert there["changed"] and there["pending"] and there["previous"] == first["digest"] != there["digest"]
        assert str(current.readlink()) == first["digest"]
    assert delivered(dest) == sorted([first["digest"], f"{first['digest']}.revision", there["digest"]])
    again = deliver(switch=False, revision="two")
    assert not again["changed"] and again["pending"]
    switched = deliver(revision="two")
    assert switched["changed"] and switched["calls"] == 1 and str(current.readlink()) == there["digest"]
    after = deliver(switch=False, revision="two")
    assert not after["changed"] and not after["pending"]
    assert deliver(switch=False, revision="two", keep=1)["pending"], "folders to remove"


def test_revision(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    def recorded() -> str:
        return str(deliver(state="query", src=None)["revision"])

    digest = deliver()["digest"]
    assert recorded() == "" and delivered(tmp_path / "dest") == [digest]
    planned = deliver(revision="one", check=True)
    assert planned["changed"] and recorded() == ""
    assert planned["diff"][-1]["before"] == "\n" and planned["diff"][-1]["after"] == "one\n"
    assert deliver(revision="one")["changed"] and recorded() == "one"
    assert stat.S_IMODE((tmp_path / "dest" / f"{digest}.revision").stat().st_mode) == 0o644
    assert not deliver(revision="one")["changed"]
    assert deliver(revision="two")["changed"] and recorded() == "two"
    assert deliver()["changed"] and recorded() == ""
    deliver(revision="two")
    (src / "a.py").write_text("a = 2\n")
    newest = deliver(keep=1)["digest"]
    assert delivered(tmp_path / "dest") == [newest], "no revision of a folder that is gone"


def test_previous(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    current, link = tmp_path / "dest/current", tmp_path / "dest/previous"
    first = deliver(revision="one")["digest"]
    nothing = {"recorded": None, "digest": None, "revision": ""}
    assert deliver(state="query", src=None)["way_back"] == nothing
    assert "no previous folder" in deliver(state="previous", src=None)["msg"]
    (src / "a.py").write_text("a = 2\n")
    second = deliver(revision="two")["digest"]
    way = {"recorded": first, "digest": first, "revision": "one"}
    assert deliver(state="query", src=None)["way_back"] == way
    old = time.time() - 1000
    os.utime(current.parent / first / "a.py", (old, old))

    planned = deliver(state="previous", src=None, check=True)
    assert planned["changed"] and str(current.readlink()) == second
    assert planned["diff"][0]["before_header"] == f"{current} -> {second}"
    back = deliver(state="previous", src=None)
    assert back["changed"] and (back["digest"], back["previous"]) == (first, second)
    assert str(current.readlink()) == first and str(link.readlink()) == first
    assert (current / "a.py").stat().st_mtime > time.time(), "or Airflow parses it minutes later"
    assert not deliver(state="previous", src=None)["changed"], "an interrupted run is repeated"

    deliver(revision="two")
    (link / "a.py").write_text("edited")
    assert deliver(state="query", src=None)["way_back"]["digest"] not in (None, first)
    assert "changed on this host" in deliver(state="previous", src=None)["msg"]
    assert str(current.readlink()) == second
    shutil.rmtree(current.parent / first)
    assert "no previous folder" in deliver(state="previous", src=None)["msg"]


def test_the_way_back_is_kept(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    digests = []
    for number in range(2):
        (src / "a.py").write_text(f"a = {number}\n")
        digests.append(deliver(keep=3)["digest"])
    for number in range(2, 6):  # refused ones
        (src / "a.py").write_text(f"a = {number}\n")
        deliver(keep=3, switch=False)
        time.sleep(0.01)
    (src / "a.py").write_text("a = 1\n")
    deliver(keep=2)
    assert delivered(tmp_path / "dest") == sorted(digests)
    assert deliver(keep=1, check=True)["diff"] != []
    deliver(keep=1)
    assert delivered(tmp_path / "dest") == [digests[1]] and not (tmp_path / "dest/previous").is_symlink()


def test_archive_is_deterministic_and_made_once(src: Path, deliver: Deliver) -> None:
    manifest = action.read(str(src), DEFAULT_EXCLUDE)
    first = Path(action.archive(str(src), manifest))
    content = first.read_bytes()
    assert action.archive(str(src), manifest) == str(first)
    first.unlink()
    os.utime(src / "a.py", (1, 1))
    assert Path(action.archive(str(src), manifest)).read_bytes() == content
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_speed(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    for number in range(1000):
        path = src / f"team{number % 20}/dag{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"number = {number}\n" * 50)
    deliver()
    start = time.perf_counter()
    deliver(state="query", src=None)
    assert time.perf_counter() - start < 1


PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: check
      dataops.airflow.tree: &args {src: dags, dest: "{{ root }}/dags", owner: "{{ me }}", group: "{{ us }}"}
      check_mode: true
      register: planned
    - {name: query bare, dataops.airflow.tree: &query {state: query, dest: "{{ root }}/dags"}, register: bare}
    - {name: deliver, dataops.airflow.tree: *args, register: first}
    - {name: again, dataops.airflow.tree: *args, register: again}
    - {name: query, dataops.airflow.tree: *query, register: asked}
    - name: refuse
      dataops.airflow.tree: {src: nothing, dest: "{{ root }}/dags"}
      register: refused
      ignore_errors: true
    - name: report
      ansible.builtin.copy:
        content: "{{ {'planned': planned, 'bare': bare, 'first': first, 'again': again, 'query': asked,
                      'refused': refused} | to_json }}"
        dest: "{{ root }}/report.json"
        mode: '0600'
"""


def test_playbook(src: Path, tmp_path: Path) -> None:
    root = tmp_path / "play"
    (root / "files").mkdir(parents=True)
    src.rename(root / "files/dags")
    (root / "play.yml").write_text(PLAYBOOK)
    (root / "hosts").write_text(f"h ansible_connection=local ansible_python_interpreter={sys.executable}\n")
    extra = json.dumps({"root": str(root), "me": OWNER, "us": GROUP})
    run = run_playbook(root, "-i", "hosts", "play.yml", "-e", extra, "-D", "-vvv")
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((root / "report.json").read_text())
    digest = tree_digest.digest(tree_digest.scan(str(root / "files/dags"), DEFAULT_EXCLUDE))
    changed = {name for name, answer in report.items() if answer["changed"]}
    assert changed == {"planned", "first"}
    assert report["planned"]["digest"] == report["first"]["digest"] == report["again"]["previous"] == digest
    assert report["bare"]["digest"] is None and report["query"]["digest"] == report["query"]["recorded"] == digest
    assert report["refused"]["failed"] and "nothing" in report["refused"]["msg"]
    assert "+a.py  f " in run.stdout and "[WARNING]" not in run.stderr, run.stderr
    assert delivered(root / "dags") == [digest]


def test_two_deliveries_take_turns(src: Path, tmp_path: Path, deliver: Deliver) -> None:
    """What one of them is still writing, the other one must not take for a leftover."""
    deliver()
    (src / "a.py").write_text("a = 2\n")
    dest, begun, seen = tmp_path / "dest", threading.Event(), []
    partial = dest / ".0123456789abcdef.partial"
    partial.mkdir()

    def write() -> None:
        with turn(dest):
            begun.set()
            deadline = time.monotonic() + 20
            while not re.search(rf"-> FLOCK .* {os.getpid()} ", Path("/proc/locks").read_text()):
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            seen.append(partial.is_dir())

    other = threading.Thread(target=write)
    other.start()
    assert begun.wait(10)
    assert deliver()["changed"] is True
    other.join()
    assert seen == [True], "it waited for its turn"
    assert not partial.exists()
