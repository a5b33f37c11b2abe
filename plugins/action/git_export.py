# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Exports the files of a commit on the control node; see plugins/modules/git_export.py."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.credentials import scrub
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, report

TITLE = "The commit cannot be fetched. Nothing was changed."
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "ref": {"type": "str", "default": "HEAD"},
    "path": {"type": "str", "default": ""},
    "key": {"type": "str", "default": "", "no_log": True},
    "known_hosts": {"type": "str", "default": ""},
    "username": {"type": "str", "default": ""},
    "password": {"type": "str", "default": "", "no_log": True},
    "variables": {"type": "str", "default": ""},
    "cache": {"type": "str", "default": "~/.cache/dataops-airflow/git"},
    "timeout": {"type": "int", "default": 300},
}
# Of what a caller's git may have set for another repository, as in a hook.
FOREIGN = re.compile(
    "GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE|COMMON_DIR|NAMESPACE|PREFIX|CONFIG_(COUNT|KEY|VALUE|PARAM))"
)

DENIED = (
    r"terminal prompts disabled|could not read (Username|Password)|Authentication failed|HTTP Basic: Access denied"
    r"|Permission denied|Load key .*(invalid format|error in libcrypto|passphrase)|returned error: 40[13]"
)
UNKNOWN_HOST = r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"
NO_REF = r"couldn't find remote ref|not our ref|unadvertised object|invalid refspec|does not point to a"
NO_REPOSITORY = r"does not appear to be a git repository|[Rr]epository .*not found|returned error: 404|not exist"


class GitError(Exception):
    """Why there are no files.

    :ivar problem: what is wrong, with what to do about it.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(report(TITLE, [problem]))
        self.problem = problem


class Repository:
    """A remote repository, and the bare one on the control node that its commits are kept in.

    :param args: see `ARGUMENT_SPEC`.
    """

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.url: str = args["url"]
        self.args = args
        self.folder = Path(args["cache"]).expanduser() / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        password = args["password"]
        self.secrets = {text: "***" for text in (password, quote(password, safe="")) if text}

    def name(self, option: str) -> str:
        """What a user calls an option."""
        prefix = self.args["variables"]
        return f"{prefix}_{option}" if prefix else option

    @contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """Environment of git: the operator's, with the given credentials, which are in no argument and no setting."""
        found = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        found |= {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": "", "LC_ALL": "C"}
        settings: list[tuple[str, str]] = [("core.autocrlf", "false")]
        if self.args["password"]:
            parts = urlsplit(self.url)
            scope = f"credential.{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            found["AIRFLOW_GIT_USERNAME"] = self.args["username"] or parts.username or "git"
            found["AIRFLOW_GIT_PASSWORD"] = self.args["password"]
            answer = r'!f() { printf "username=%s\npassword=%s\n" "$AIRFLOW_GIT_USERNAME" "$AIRFLOW_GIT_PASSWORD"; }; f'
            # The empty one forgets those of the operator.
            settings += [(f"{scope}.helper", ""), (f"{scope}.helper", answer)]
        found["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings):
            found[f"GIT_CONFIG_KEY_{number}"], found[f"GIT_CONFIG_VALUE_{number}"] = key, value
        with tempfile.TemporaryDirectory(dir=constants.DEFAULT_LOCAL_TMP) as scratch:
            ssh = [*shlex.split(found.get("GIT_SSH_COMMAND", "ssh")), "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]
            if self.args["key"]:
                file = Path(scratch, "key")
                file.touch(0o600)
                file.write_text(self.args["key"].strip() + "\n")
                ssh += ["-i", str(file), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
            if self.args["known_hosts"]:
                known = Path(scratch, "known_hosts")
                known.write_text(self.args["known_hosts"].strip() + "\n")
                ssh += ["-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=/dev/null"]
            found["GIT_SSH_COMMAND"] = shlex.join([*ssh, "-o", "StrictHostKeyChecking=yes"])
            found["GIT_INDEX_FILE"] = str(Path(scratch, "index"))
            yield found

    def git(self, environment: Mapping[str, str], *arguments: str) -> str:
        """Run git in the folder.

        :raises GitError: with git's own words.
        """
        try:
            done = subprocess.run(
                ["git", "-C", str(self.folder), *arguments],  # noqa: S607  the operator's own
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=self.args["timeout"],
            )
        except FileNotFoundError:
            raise GitError(
                Problem("git on the control node", "no such command", "git 2.31 or newer", "install it there")
            ) from None
        except subprocess.TimeoutExpired:
            raise GitError(self.explain(f"no answer for {self.args['timeout']} seconds")) from None
        if done.returncode:
            raise GitError(self.explain(scrub(done.stderr, self.secrets)))
        return done.stdout.strip()

    def fetch(self, environment: Mapping[str, str]) -> str:
        """Return the commit that is wanted now; a commit that is here already is not asked for."""
        if not (self.folder / "HEAD").is_file():
            self.git(environment, "init", "--quiet", "--bare")
        ref = self.args["ref"]
        if COMMIT.fullmatch(ref):
            try:
                return self.git(environment, "rev-parse", "--quiet", "--verify", f"{ref}^{{commit}}")
            except GitError:
                pass  # not here yet
        call = ["--quiet", "--no-tags", "--no-write-fetch-head", "--force", "--", self.url, f"{ref}:refs/export/wanted"]
        try:
            self.git(environment, "fetch", "--depth=1", *call)
        except GitError as error:
            if "shallow" not in error.problem.found:
                raise
            self.git(environment, "fetch", *call)  # a server of plain files has all or nothing
        return self.git(environment, "rev-parse", "--verify", "refs/export/wanted^{commit}")

    def export(self, environment: Mapping[str, str], commit: str, target: Path) -> None:
        """Write the files of a commit, or of one folder of it."""
        path = self.args["path"].strip("/")
        tree = f"{commit}:{path}" if path else f"{commit}^{{tree}}"
        try:
            kind = self.git(environment, "cat-file", "-t", tree)
        except GitError:
            kind = "missing"
        if kind != "tree":
            raise GitError(
                Problem(
                    self.name("path"),
                    f'"{path}", which is no folder of the commit {commit}',
                    'a folder of the repository, by its path in it; "" for all of it',
                    "correct it, or the ref",
                )
            )
        entries = self.git(environment, "ls-tree", "-r", "--full-tree", tree).splitlines()
        modules = [entry.partition("\t")[2] for entry in entries if entry.startswith("160000 ")]
        if modules:
            raise GitError(
                Problem(
                    f"{self.url} at {commit}",
                    f"submodules: {', '.join(modules)}",
                    "files: what other repositories hold is not fetched",
                    "put the files into this repository, or deliver a checked-out folder with airflow_dags",
                )
            )
        partial = Path(tempfile.mkdtemp(prefix="export-", dir=target.parent))
        # Without the operator's filters, such as those of Git LFS: the same commit is the same files for everybody.
        own = {**environment, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        self.git(own, "read-tree", tree)
        places = {"GIT_DIR": str(self.folder), "GIT_WORK_TREE": str(partial)}
        self.git({**own, **places}, "checkout-index", "--all")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)

    def explain(self, message: str) -> Problem:
        """Return what git says with what to do about it."""
        lines = [line for line in message.strip().splitlines() if line.strip() and not line.startswith("hint:")]
        said = "\n".join(lines[-6:]) or "git failed without a word"
        subject = self.name("url")
        found = f"{scrub(self.url, self.secrets)}:\n{said}"
        web = self.url.startswith(("http://", "https://"))
        option = "password" if web else "key"
        wanted = f"the server wants another {'login' if web else 'key'} than {self.name(option)}"
        if not self.args[option]:
            wanted = f"the server wants a {'login' if web else 'key'}, and {self.name(option)} is not set"
        if re.search(UNKNOWN_HOST, message):
            return Problem(
                self.name("known_hosts"),
                found,
                "the host key of the server, as known_hosts has it; empty: what the user that runs the playbook knows",
                "compare the output of ssh-keyscan with what the server's owner says, and set it",
            )
        if re.search(NO_REF, message):
            return Problem(
                self.name("ref"),
                f"{self.args['ref']}, of {found}",
                "a branch, a tag, or the 40 digits of a commit that one of them reaches",
                "correct it, or push the commit",
            )
        if re.search(DENIED, message):
            return Problem(
                subject,
                f"{wanted}\n{found}",
                "a repository that may be read with "
                + ("the username and password or token" if web else "the deploy key")
                + " that is set, or without",
                f"set {self.name('username') + ' and ' if web else ''}{self.name(option)} in the vault"
                + ("" if web else ": the private key as text, without a passphrase"),
            )
        return Problem(
            subject,
            found,
            "a repository that the control node can read",
            (
                "correct the URL; a server may say this of a private one, too"
                if re.search(NO_REPOSITORY, message)
                else "check the URL and the network, then run this again"
            ),
        )


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    """Controller side of :mod:`dataops.airflow.git_export`."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Export the files; the same in check mode, as no host is touched."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENT_SPEC)
        repository = Repository(args)
        try:
            repository.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (repository.folder / "lock").open("w") as lock, repository.environment() as environment:
                fcntl.flock(lock, fcntl.LOCK_EX)
                commit = repository.fetch(environment)
                # Ansible removes this folder at the end of the run.
                name = hashlib.sha256(f"{args['url']} {args['path']}".encode()).hexdigest()[:8]
                target = Path(constants.DEFAULT_LOCAL_TMP, f"export-{commit}-{name}")
                if not target.is_dir():
                    repository.export(environment, commit, target)
        except GitError as error:
            raise AnsibleActionFail(str(error), result={"changed": False}) from None
        except OSError as error:
            problem = Problem(
                repository.name("url"), str(error), "a cache that can be written", f"mend {args['cache']}"
            )
            raise AnsibleActionFail(report(TITLE, [problem]), result={"changed": False}) from error
        result.update(changed=False, commit=commit, path=str(target))
        return result
