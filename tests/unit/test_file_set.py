"""file_set: bare, unchanged, changed, check mode, diff, refused and half-failed runs."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import file_set

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
SECRET = "s3cr3t-never-shown"  # noqa: S105


def call(
    capsys: pytest.CaptureFixture[str],
    *entries: dict[str, Any],
    own: bool = True,
    check: bool = False,
    diff: bool = True,
    no_log: bool = False,
) -> dict[str, Any]:
    """Run the module in this process; its JSON answer."""
    files = [{**({"owner": OWNER, "group": GROUP} if own else {}), **entry} for entry in entries]
    arguments = {"files": files, "_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_no_log": no_log}
    capsys.readouterr()
    with patch_module_args(arguments), pytest.raises(SystemExit):
        file_set.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def snapshot(root: Path) -> dict[str, Any]:
    """Everything below `root`: kind, mode, content."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        body = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, body)
    return found


def entries(root: Path) -> list[dict[str, Any]]:
    return [
        {"path": f"{root}/etc", "state": "directory", "mode": "0750"},
        {"path": f"{root}/etc/airflow.cfg", "content": "[core]\nx = é\n", "mode": "0640"},
        {"path": f"{root}/etc/empty", "content": ""},
        {"path": f"{root}/etc/link", "state": "link", "src": "airflow.cfg"},
        {"path": f"{root}/old", "state": "absent"},
    ]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_bare_then_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").write_text("x")
    all_paths = [entry["path"] for entry in entries(tmp_path)]
    before = snapshot(tmp_path)
    previous_umask = os.umask(0o077)
    try:
        planned = call(capsys, *entries(tmp_path), check=True)
        assert planned["changed"] and planned["changed_paths"] == all_paths
        assert snapshot(tmp_path) == before, "check mode wrote something"
        done = call(capsys, *entries(tmp_path))
    finally:
        os.umask(previous_umask)
    assert done["changed"] and done["changed_paths"] == all_paths
    assert done["diff"] == planned["diff"]
    assert (tmp_path / "etc/airflow.cfg").read_bytes() == "[core]\nx = é\n".encode()
    assert [mode(tmp_path / name) for name in ("etc", "etc/airflow.cfg", "etc/empty")] == [0o750, 0o640, 0o644]
    assert str((tmp_path / "etc/link").readlink()) == "airflow.cfg"
    assert not (tmp_path / "old").exists()
    after = snapshot(tmp_path)
    assert set(after) == {"etc", "etc/airflow.cfg", "etc/empty", "etc/link"}, "a temporary file stayed behind"

    inode = (tmp_path / "etc/airflow.cfg").stat().st_ino
    for check in (True, False):
        again = call(capsys, *entries(tmp_path), check=check)
        assert not again["changed"] and again["changed_paths"] == [] and again["diff"] == []
    assert snapshot(tmp_path) == after and (tmp_path / "etc/airflow.cfg").stat().st_ino == inode


def test_changes_and_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, *entries(tmp_path))
    config = tmp_path / "etc/airflow.cfg"
    config.write_text("[core]\ny = 1\n")
    (tmp_path / "etc/empty").chmod(0o600)
    (tmp_path / "etc/link").unlink()
    (tmp_path / "etc/link").symlink_to("elsewhere")
    (tmp_path / "etc").chmod(0o700)
    before = snapshot(tmp_path)
    expected = [str(tmp_path / name) for name in ("etc", "etc/airflow.cfg", "etc/empty", "etc/link")]

    planned = call(capsys, *entries(tmp_path), check=True)
    assert planned["changed_paths"] == expected and snapshot(tmp_path) == before
    answer = call(capsys, *entries(tmp_path))
    assert answer["changed_paths"] == expected
    parts = {part["before_header"]: (part["before"], part["after"]) for part in answer["diff"]}
    assert all(part["before_header"] == part["after_header"] for part in answer["diff"])
    assert parts[str(config)] == ("[core]\ny = 1\n", "[core]\nx = é\n")
    assert f"{config} (attributes)" not in parts
    who = f"owner: {OWNER}\ngroup: {GROUP}\n"
    assert parts[f"{tmp_path}/etc (attributes)"] == (
        f"state: directory\n{who}mode: 0700\n",
        f"state: directory\n{who}mode: 0750\n",
    )
    assert parts[f"{tmp_path}/etc/empty (attributes)"][0] == f"state: file\n{who}mode: 0600\n"
    assert parts[f"{tmp_path}/etc/link (attributes)"] == (
        f"state: link\n{who}src: elsewhere\n",
        f"state: link\n{who}src: airflow.cfg\n",
    )
    assert call(capsys, *entries(tmp_path), diff=False).keys().isdisjoint({"diff"})


def test_binary_content_is_not_in_the_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_bytes(b"\xff\xfe\x00")
    answer = call(capsys, {"path": f"{tmp_path}/f", "content": "text\n"})
    assert answer["diff"][0]["before"] == "(not text, 3 bytes)\n"


def test_file_replaces_link_not_its_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "target").write_text("same")
    (tmp_path / "f").symlink_to("target")
    answer = call(capsys, {"path": f"{tmp_path}/f", "content": "same"})
    assert answer["changed"] and not (tmp_path / "f").is_symlink() and (tmp_path / "target").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give files away")
def test_owner_and_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [
        {"path": f"{tmp_path}/d", "state": "directory", "owner": "daemon", "group": "daemon", "mode": "02770"},
        {"path": f"{tmp_path}/f", "content": "x", "owner": "54321", "group": "54322"},
        {"path": f"{tmp_path}/l", "state": "link", "src": "f", "owner": "daemon"},
        {"path": f"{tmp_path}/defaults", "content": "x"},
    ]
    assert call(capsys, *wanted, own=False)["changed"]
    daemon = pwd.getpwnam("daemon")
    assert ((tmp_path / "d").stat().st_uid, (tmp_path / "d").stat().st_gid) == (
        daemon.pw_uid,
        grp.getgrnam("daemon").gr_gid,
    )
    assert mode(tmp_path / "d") == 0o2770
    assert ((tmp_path / "f").stat().st_uid, (tmp_path / "f").stat().st_gid) == (54321, 54322)
    assert (tmp_path / "l").lstat().st_uid == daemon.pw_uid
    assert (tmp_path / "defaults").stat().st_uid == 0 == (tmp_path / "defaults").stat().st_gid
    assert not call(capsys, *wanted, own=False)["changed"]
    os.chown(tmp_path / "f", 0, 0)
    answer = call(capsys, *wanted, own=False)
    assert answer["changed_paths"] == [f"{tmp_path}/f"] and "owner: 54321" in answer["diff"][0]["after"]


def test_unknown_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [
        {"path": f"{tmp_path}/a", "content": "x"},
        {"path": f"{tmp_path}/b", "content": "x", "owner": "nobody-here", "group": "nor-here"},
    ]
    planned = call(capsys, *wanted, check=True)
    assert (
        planned["changed_paths"] == [f"{tmp_path}/a", f"{tmp_path}/b"]
        and "owner: nobody-here" in planned["diff"][-1]["after"]
    )
    (tmp_path / "b").write_text("x")
    assert call(capsys, wanted[1], check=True)["changed"]
    (tmp_path / "b").unlink()
    failed = call(capsys, *wanted)
    assert failed["failed"] and snapshot(tmp_path) == {}
    assert f"{tmp_path}/b (file): owner 'nobody-here'" in failed["msg"] and "group 'nor-here'" in failed["msg"]


def test_missing_parent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {"path": f"{tmp_path}/etc/f", "content": "x"}
    failed = call(capsys, wanted)
    assert failed["failed"] and f"parent {tmp_path}/etc neither exists nor is an earlier entry" in failed["msg"]
    assert call(capsys, wanted, check=True)["changed_paths"] == [f"{tmp_path}/etc/f"]
    assert call(capsys, {"path": f"{tmp_path}/none/f", "state": "absent"})["changed"] is False


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "relative", "content": "x"}, "must be absolute"),
        ({"path": "{root}/a/../b", "content": "x"}, "must be absolute and without '..'"),
        ({"path": "{root}/f"}, "'content' is required"),
        ({"path": "{root}/f", "content": "x", "src": "y"}, "'src' is not allowed"),
        ({"path": "{root}/f", "state": "link"}, "'src' is required"),
        ({"path": "{root}/f", "state": "link", "src": "y", "mode": "0644"}, "'mode' is not allowed"),
        ({"path": "{root}/f", "state": "directory", "content": "x"}, "'content' is not allowed"),
        ({"path": "{root}/f", "content": "x", "mode": 0o644}, "mode '420' must be a quoted string"),
        ({"path": "{root}/f", "content": "x", "mode": "u+x"}, "mode 'u+x' must be"),
        ({"path": "{root}/f", "content": "x", "validate": "true"}, "must contain %s"),
        ({"path": "{root}/full", "content": "x"}, "is a directory now"),
        ({"path": "{root}/full", "state": "absent"}, "not empty (it holds {root}/full/x)"),
        ({"path": "{root}/full/x", "state": "directory"}, "is a file now"),
        ({"path": "{root}/full/x", "state": "link", "src": "y"}, "is a file now"),
        ({"path": "{root}/link", "state": "directory"}, "is a link now"),
        ({"path": "{root}/fifo", "content": "x"}, "is a special file now"),
        ({"path": "{root}/full/x/y", "content": "x"}, "parent {root}/full/x is not a directory"),
        ({"path": "{root}/good", "content": "y"}, "listed twice"),
        ({"path": "{root}/good/f", "content": "y"}, "makes its parent {root}/good a file"),
        ({"path": "{root}/f", "content": "x", "state": "touch"}, "must be one of: file, directory, absent, link"),
        ({"path": "{root}/f", "content": "x", "colour": "red"}, "colour"),
    ],
)
def test_bad_entry_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, Any], message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    (tmp_path / "link").symlink_to("full")
    os.mkfifo(tmp_path / "fifo")
    before = set(tmp_path.iterdir())
    entry = {**entry, "path": entry["path"].replace("{root}", str(tmp_path))}
    failed = call(capsys, {"path": f"{tmp_path}/good", "content": "x"}, entry)
    assert failed["failed"] and message.replace("{root}", str(tmp_path)) in failed["msg"]
    assert set(tmp_path.iterdir()) == before


def test_all_errors_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = call(capsys, {"path": f"{tmp_path}/a"}, {"path": f"{tmp_path}/b", "state": "link"})
    assert f"{tmp_path}/a (file): 'content'" in failed["msg"] and f"{tmp_path}/b (link): 'src'" in failed["msg"]


def test_directory_emptied_by_earlier_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("x")
    gone = [{"path": f"{tmp_path}/d/a", "state": "absent"}, {"path": f"{tmp_path}/d", "state": "absent"}]
    refilled = [gone[0], {"path": f"{tmp_path}/d/b", "content": "x"}, gone[1]]
    assert "not empty" in call(capsys, *refilled)["msg"] and (tmp_path / "d/a").exists()
    below = call(capsys, *gone, {"path": f"{tmp_path}/d/c", "content": "x"})
    assert "an earlier entry makes its parent" in below["msg"] and (tmp_path / "d/a").exists()
    assert call(capsys, *gone, check=True)["changed_paths"] == call(capsys, *gone)["changed_paths"]
    assert not (tmp_path / "d").exists() and not call(capsys, *gone)["changed"]


def test_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def wanted(content: str, command: str) -> list[dict[str, Any]]:
        return [
            {"path": f"{tmp_path}/a", "content": content},
            {"path": f"{tmp_path}/b.cfg", "content": content, "validate": command},
        ]

    assert call(capsys, *wanted("old\n", "grep -q old %s"))["changed"]
    assert not call(capsys, *wanted("old\n", "false %s"))["changed"], "unchanged content needs no validation"
    before = snapshot(tmp_path)
    refused = call(capsys, *wanted("new\n", "sh -c 'echo bad line in ${1##*/}; echo more >&2; exit 3' x %s"))
    assert refused["failed"] and refused["changed"] is False and refused["changed_paths"] == []
    assert f"{tmp_path}/b.cfg: the new content was refused by" in refused["msg"]
    assert "(exit 3): bad line in b.cfg\nmore" in refused["msg"], "the copy keeps the base name"
    missing = call(capsys, *wanted("new\n", "no-such-command %s"))
    assert missing["failed"] and "cannot run 'no-such-command %s'" in missing["msg"]
    assert call(capsys, *wanted("new\n", "no-such-command %s"), check=True)["changed"]
    assert snapshot(tmp_path) == before


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [{"path": f"{tmp_path}/{name}", "content": "new"} for name in "abc"]
    (tmp_path / "b").write_text("old")
    replace = Path.replace

    def fails_on_b(source: Path, target: Path) -> None:
        if target.name == "b":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails_on_b)
        failed = call(capsys, *wanted)
    assert failed["failed"] and f"{tmp_path}/b: No space left on device" in failed["msg"]
    assert failed["changed"] is True and failed["changed_paths"] == [f"{tmp_path}/a"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"} and (tmp_path / "b").read_text() == "old"
    assert call(capsys, *wanted)["changed_paths"] == [f"{tmp_path}/b", f"{tmp_path}/c"]


def test_new_content_is_never_readable_by_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    replace = Path.replace

    def watch(source: Path, target: Path) -> None:
        seen.append(mode(source))
        replace(source, target)

    monkeypatch.setattr(Path, "replace", watch)
    call(capsys, {"path": f"{tmp_path}/a", "content": SECRET, "mode": "0600"})
    assert seen == [0o600]


@pytest.mark.parametrize("content", [SECRET, "f"])
def test_content_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(file_set.FileSetModule, "log", lambda self, msg, log_args=None: logged.append(msg))
    wanted = {"path": f"{tmp_path}/fff", "content": content}
    answer = call(capsys, wanted, diff=False)
    assert answer["changed_paths"] == [f"{tmp_path}/fff"], "a short content is not cut out of the paths"
    assert answer["invocation"]["module_args"]["files"][0]["content"] == "(not shown)"
    wrong = call(capsys, wanted, {"path": f"{tmp_path}/g", "content": SECRET, "state": "what"}, diff=False)
    bad = call(capsys, {**wanted, "mode": "nonsense"}, diff=False)
    assert wrong["failed"] and bad["failed"]
    assert SECRET not in json.dumps([answer, wrong, bad]) and logged and SECRET not in "".join(logged)


def test_no_log_keeps_the_result_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = call(capsys, {"path": f"{tmp_path}/f", "content": SECRET}, diff=False, no_log=True)
    assert answer["changed_paths"] == [f"{tmp_path}/f"] and SECRET not in json.dumps(answer)
