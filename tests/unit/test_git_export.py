"""git_export: commits of branches, tags and numbers, folders of them, logins, and what is said without a commit."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible import constants
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible_collections.dataops.airflow.plugins.action import git_export as action

Export = Callable[..., dict[str, Any]]
PASSWORD = "s3cret/with:signs"  # noqa: S105  of a server of the test


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as nobody in particular."""
    who = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    plain = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    argv = ["git", "-C", str(folder), "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(
        argv, check=True, capture_output=True, text=True, env={**os.environ, **who, **plain}
    ).stdout.strip()


def commit(folder: Path, message: str = "work") -> str:
    """Commit all files, and return the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "repository"
    (folder / "team/dags").mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "team/dags/a.py").write_text("a = 1\n")
    (folder / "team/dags/run.sh").write_text("true\n")
    (folder / "team/dags/run.sh").chmod(0o755)
    (folder / "team/dags/b.py").symlink_to("a.py")
    (folder / "README.md").write_text("# $Format:%H$\n")
    (folder / ".gitattributes").write_text("README.md export-subst\nteam/dags/a.py export-ignore\n")
    commit(folder)
    return folder


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """The action plugin's real code, with a cache of its own."""
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "local"))
    (tmp_path / "local").mkdir()
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")

    def call(url: Any = tmp_path / "repository", **args: Any) -> dict[str, Any]:
        task = mock.MagicMock(async_val=0, check_mode=False, diff=False)
        task.args = {"url": str(url), "cache": str(tmp_path / "cache"), "variables": "airflow_dags_git", **args}
        plugin = action.ActionModule(task, mock.MagicMock(), mock.MagicMock(), DataLoader(), None, None)
        result = plugin.run(task_vars={})
        assert not result["changed"]
        return result

    return call


def refusal(export: Export, *arguments: Any, **more: Any) -> str:
    """What is said instead of a commit."""
    with pytest.raises(AnsibleError) as caught:
        export(*arguments, **more)
    text = str(caught.value)
    for word in ("Nothing was changed", "found:", "allowed:", "remedy:"):
        assert word in text, text
    return text


def test_a_branch_a_tag_and_a_number(repository: Path, export: Export, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "tag", "--annotate", "--message", "one", "v1")
    (repository / "team/dags/a.py").write_text("a = 2\n")
    second = commit(repository)
    for ref, wanted in (("HEAD", second), ("main", second), ("v1", first), (first, first), (second, second)):
        found = export(ref=ref)
        assert found["commit"] == wanted, ref
        assert Path(found["path"], "team/dags/a.py").read_text() == f"a = {1 if wanted == first else 2}\n"
    git(repository, "reset", "--quiet", "--hard", first)
    assert export(ref="main")["commit"] == first, "a branch that went back"
    shutil.rmtree(repository)
    assert export(ref=second)["commit"] == second, "nobody is asked for a commit that is here"
    assert "airflow_dags_git_url" in refusal(export, ref="main")


def test_files_are_those_of_the_commit(repository: Path, export: Export, tmp_path: Path) -> None:
    (repository / "team/dags/a.py").write_text("not committed")
    (repository / "new.py").touch()
    root = Path(export()["path"])
    assert sorted(path.name for path in root.iterdir()) == [".gitattributes", "README.md", "team"]
    assert (root / "README.md").read_text() == "# $Format:%H$\n", "export-subst is for archives"
    folder = Path(export(path="team/dags/")["path"])
    assert folder != root and sorted(path.name for path in folder.iterdir()) == ["a.py", "b.py", "run.sh"]
    assert (folder / "a.py").read_text() == "a = 1\n" and str((folder / "b.py").readlink()) == "a.py"
    assert [bool((folder / name).stat().st_mode & stat.S_IXUSR) for name in ("a.py", "run.sh")] == [False, True]
    text = refusal(export, path="team/none")
    assert 'airflow_dags_git_path\n  found:   "team/none", which is no folder of the commit' in text
    assert "team/dags/a.py" in refusal(export, path="team/dags/a.py")


def test_the_filters_of_the_operator_change_no_file(
    repository: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as those of `git lfs install`, which would fail for want of a remote."""
    (repository / ".gitattributes").write_text("*.py filter=lfs\n")
    commit(repository)
    (tmp_path / "gitconfig").write_text('[filter "lfs"]\n  smudge = false\n  required = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    assert Path(export()["path"], "team/dags/a.py").read_text() == "a = 1\n"


def test_refs_that_are_not_there(repository: Path, export: Export) -> None:
    for ref in ("nothing", "f" * 40):
        text = refusal(export, ref=ref)
        assert f"airflow_dags_git_ref\n  found:   {ref}, of {repository}" in text


def test_submodules_are_refused(repository: Path, export: Export) -> None:
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'a' * 40},team/dags/other")
    git(repository, "commit", "--quiet", "--message", "submodule")
    assert "submodules: team/dags/other" in refusal(export)
    assert "submodules: dags/other" in refusal(export, path="team")


def test_no_git(repository: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "git on the control node" in refusal(export)


def test_no_answer(tmp_path: Path, export: Export, repository: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with mock.patch.dict(os.environ, {"GIT_SSH_COMMAND": str(slow)}):
        assert "no answer for 1 seconds" in refusal(export, "git@git.example.org:dags.git", timeout=1)


# -- logins ----------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """A repository behind a login, as its plain files."""

    root: Path
    seen: list[str]

    def do_GET(self) -> None:
        login = self.headers.get("Authorization", "")
        self.seen.append(login)
        wanted = "Basic " + base64.b64encode(f"deploy:{PASSWORD}".encode()).decode()
        path = self.root / self.path.partition("?")[0].lstrip("/")
        status = 401 if login != wanted else 200 if path.is_file() else 404
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="dags"')
        body = path.read_bytes() if status == 200 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(repository: Path) -> Iterator[str]:
    """URL of the repository behind a login."""
    git(repository, "update-server-info")
    Server.root, Server.seen = repository / ".git", []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_login_that_is_missing_or_wrong(server: str, export: Export) -> None:
    text = refusal(export, server)
    assert "the server wants a login, and airflow_dags_git_password is not set" in text
    assert "set airflow_dags_git_username and airflow_dags_git_password in the vault" in text
    text = refusal(export, server, username="deploy", password="wrong-" + PASSWORD)
    assert "another login than airflow_dags_git_password" in text and PASSWORD not in text


def test_a_login_is_in_no_argument_and_no_file(
    server: str, export: Export, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A wrapper writes down how git is called.
    real = shutil.which("git")
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec {real} "$@"\n')
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = export(server, username="deploy", password=PASSWORD)
    assert found["commit"] == git(repository, "rev-parse", "HEAD")
    assert any(Server.seen)
    assert PASSWORD not in calls.read_text()
    kept = [
        path for path in (tmp_path / "cache").rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]
    assert kept == []
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "cache").iterdir()] == [0]


def ssh(tmp_path: Path, said: str) -> Path:
    """A program in place of ssh that fails, and writes down how it was called and what the key was."""
    program = tmp_path / "ssh"
    program.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/called\nwhile [ $# -gt 0 ]; do\n"
        f'  [ "$1" = -i ] && {{ cp "$2" {tmp_path}/key; stat -c %a "$2" > {tmp_path}/mode; }}\n  shift\ndone\n'
        f"echo '{said}' >&2\nexit 255\n"
    )
    program.chmod(0o755)
    return program


def test_a_key_that_is_missing_or_wrong(tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh(tmp_path, "git@host: Permission denied (publickey).")))
    text = refusal(export, "git@git.example.org:team/dags.git")
    assert "the server wants a key, and airflow_dags_git_key is not set" in text
    assert "Permission denied (publickey)" in text and "set airflow_dags_git_key in the vault" in text
    assert not (tmp_path / "key").exists()
    text = refusal(
        export, "git@git.example.org:team/dags.git", key="KEY TEXT", known_hosts="git.example.org ssh-x AAAA"
    )
    assert "another key than airflow_dags_git_key" in text and "KEY TEXT" not in text
    assert (tmp_path / "key").read_text() == "KEY TEXT\n" and (tmp_path / "mode").read_text() == "600\n"
    called = (tmp_path / "called").read_text()
    assert "KEY TEXT" not in called
    for option in ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile="):
        assert option in called, option
    place = Path(called.splitlines()[called.splitlines().index("-i") + 1])
    assert not place.exists() and not place.parent.exists(), "the key stays nowhere"


def test_a_server_that_is_not_known(tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh(tmp_path, "Host key verification failed.")))
    text = refusal(export, "ssh://git@git.example.org/dags.git")
    assert "airflow_dags_git_known_hosts\n" in text and "ssh-keyscan" in text


def test_a_server_that_is_away(export: Export) -> None:
    text = refusal(export, "http://127.0.0.1:9/dags.git")
    assert "airflow_dags_git_url" in text and "check the URL and the network" in text
