# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Controller side of dataops.airflow.tree: reads the folder, and transfers it only to hosts that ask for it."""

from __future__ import annotations

import gzip
import os
import posixpath
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils.tree_digest import (
    ARGUMENT_SPEC,
    Manifest,
    TreeError,
    check,
    digest,
    pack,
    path_below,
    scan,
)


def read(src: str, exclude: list[str]) -> Manifest:
    """The manifest of a folder that may be delivered."""
    if not Path(src).is_dir():
        raise TreeError("is not a folder")
    manifest = scan(src, exclude)
    check(manifest)
    root = os.path.realpath(src)
    for path, what in manifest.items():
        # check() goes by the text of a link; this also sees a way out through other links.
        if what.startswith("l ") and not Path(os.path.realpath(path_below(root, path))).is_relative_to(root):
            raise TreeError(f"{path}: is a symbolic link to {what[2:]}, which leads out of the folder")
    return manifest


def archive(src: str, manifest: Manifest) -> str:
    """The path of a tar.gz with the regular files; written once for all hosts of a run."""
    final = Path(constants.DEFAULT_LOCAL_TMP, f"tree-{digest(manifest)}.tar.gz")
    if final.exists():
        return str(final)
    fd, temporary = tempfile.mkstemp(dir=final.parent)
    with (
        os.fdopen(fd, "wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", encoding="utf-8") as tar,
    ):
        for path in sorted(manifest):
            if manifest[path].startswith("l "):
                continue
            with path_below(src, path).open("rb") as file:
                member = tarfile.TarInfo(path)
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)
    Path(temporary).replace(final)
    return str(final)


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    # Not TRANSFERS_FILES: that would make a temporary folder on every host before knowing whether it is needed.

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _, shown = self.validate_argument_spec(ARGUMENT_SPEC, required_if=[("state", "present", ["src"])])
        args = {name: value for name, value in shown.items() if name != "src"}
        if args["state"] == "previous" or (args["state"] == "query" and not shown["src"]):
            return self._call(args, shown, task_vars)
        try:
            src = self._find_needle("files", shown["src"])
            manifest = read(src, args["exclude"])
            if args["state"] == "query":
                return {**self._call(args, shown, task_vars), "source": digest(manifest)}
            result = self._call({**args, "manifest": pack(manifest)}, shown, task_vars)
            if result.pop("transfer", False):
                remote = self._transfer(src, manifest)
                result = self._call({**args, "manifest": pack(manifest), "archive": remote}, shown, task_vars)
        except (TreeError, OSError) as error:
            raise AnsibleActionFail(f"{shown['src']}: {error}") from error
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _call(self, args: dict[str, Any], shown: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="dataops.airflow.tree", module_args=args, task_vars=task_vars
        )
        if "invocation" in result:
            result["invocation"] = {"module_args": shown}  # as written in the playbook, without the manifest
        if not result.get("failed"):
            # Not by the module: AnsibleModule adds owner, mode and more about whatever is called `path`.
            result["path"] = posixpath.join(posixpath.normpath(args["dest"]), "current")
        return result

    def _transfer(self, src: str, manifest: Manifest) -> str:
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        remote: str = shell.join_path(shell.tmpdir, "tree.tar.gz")
        self._transfer_file(archive(src, manifest), remote)
        self._fixup_perms2((shell.tmpdir, remote))
        return remote
