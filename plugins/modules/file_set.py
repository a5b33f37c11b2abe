#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Bring a set of small files, directories and links to their state in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_set
short_description: Bring a set of small files, directories and links to their state in one call
version_added: 0.1.0
description:
  - Writes, creates and removes the listed paths in the order given, as one task instead of one task for each path.
  - All entries are checked, and every O(files[].validate) command has passed, before the first path is touched.
  - A file is written to a temporary file in the same directory, gets its owner and mode, is synced and then renamed,
    so that a reader sees the old or the new file, never half of one.
author:
  - The dataops.airflow team
options:
  files:
    description:
      - The paths, in the order in which they are to be brought about. Each path may appear once.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Absolute path.
          - Its parent must exist or be an earlier entry; in check mode a missing parent is taken as still to come.
        type: str
        required: true
      state:
        description:
          - V(file) is a regular file holding O(files[].content). It replaces a symbolic link of that name, never a
            directory.
          - V(directory) is a directory. A symbolic link of that name is an error.
          - V(link) is a symbolic link to O(files[].src). It replaces another link only.
          - V(absent) removes a file or link, and a directory only when it is empty.
        type: str
        choices: [file, directory, absent, link]
        default: file
      content:
        description:
          - The whole text of the file, written as UTF-8. Required for O(files[].state=file), and only allowed there.
        type: str
      mode:
        description:
          - Permissions as a string of octal digits that begins with 0, such as V('0640'). Not for links.
          - The default is V('0644') for a file and V('0755') for a directory.
        type: str
      owner:
        description:
          - Name or number of the owner. In check mode a name that does not exist yet is not an error.
        type: str
        default: root
      group:
        description:
          - Name or number of the group. In check mode a name that does not exist yet is not an error.
        type: str
        default: root
      src:
        description:
          - Where the link points to, relative or absolute, kept as it is written; it need not exist. Required for, and
            only for, O(files[].state=link).
        type: str
      validate:
        description:
          - Command that must succeed on a copy of the new content before any path is touched. C(%s) is the copy,
            which has the same base name, in a folder that only the connecting user can read. No shell is involved.
          - Run only when the content changes, and not in check mode.
        type: str
attributes:
  check_mode:
    description: Returns the same RV(changed_paths) without writing.
    support: full
  diff_mode:
    description:
      - Text of the content, and a second part for type, mode and owner. Set C(diff=false) where the content is secret.
    support: full
notes:
  - O(files[].content) appears neither in the returned C(invocation) nor in the system log of the host. The diff does
    show it. Set C(no_log=true) and C(diff=false) on tasks that carry secrets; RV(changed_paths) of a registered result
    stays usable.
  - When a write fails midway (disk full, read-only file system) the error names the path, and RV(changed_paths) lists
    those before it.
"""

EXAMPLES = r"""
- name: Configure the scheduler
  dataops.airflow.file_set:
    files:
      - path: /etc/airflow
        state: directory
        mode: '0750'
        group: airflow
      - path: /etc/airflow/airflow.cfg
        content: "{{ lookup('ansible.builtin.template', 'airflow.cfg.j2') }}"
        mode: '0640'
        group: airflow
      - path: /etc/systemd/system/airflow-scheduler.service
        content: "{{ lookup('ansible.builtin.template', 'airflow.service.j2') }}"
        validate: systemd-analyze verify %s
      - path: /etc/systemd/system/airflow-webserver.service
        state: link
        src: airflow-api-server.service
      - path: /etc/airflow/webserver_config.py
        state: absent
  register: airflow_files

- name: Write the environment files, which hold secrets
  dataops.airflow.file_set:
    files: "{{ airflow_environment_files }}"
  no_log: true
  diff: false
"""

RETURN = r"""
changed_paths:
  description: The paths that were changed (in check mode, would be), in the order given.
  returned: always
  type: list
  elements: str
  sample: [/etc/airflow/airflow.cfg]
diff:
  description: For each changed path its text and, when these differ, its state, mode, owner, group and link target.
  returned: in diff mode
  type: list
  elements: dict
  contains:
    before:
      description: Text before.
      type: str
    after:
      description: Text after.
      type: str
    before_header:
      description: The path, followed by C((attributes)) where the text is not the content.
      type: str
    after_header:
      description: The same as C(before_header).
      type: str
"""

import errno
import grp
import os
import pwd
import re
import shlex
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

ENTRY_SPEC: dict[str, dict[str, Any]] = {
    "path": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "absent", "link"], "default": "file"},
    # no_log keeps the content out of the invocation when the arguments themselves are wrong.
    "content": {"type": "str", "no_log": True},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "src": {"type": "str"},
    "validate": {"type": "str"},
}
DEFAULT_MODE = {"file": "0644", "directory": "0755"}

Attributes = dict[str, str]


@dataclass(frozen=True)
class Entry:
    """One wanted path. `uid` and `gid` are None for names that do not exist yet (check mode only)."""

    path: str
    state: str
    content: bytes
    mode: int
    owner: str
    group: str
    uid: int | None
    gid: int | None
    src: str
    validate: str | None

    def attributes(self) -> Attributes:
        if self.state == "absent":
            return {"state": "absent"}
        wanted = {
            "state": self.state,
            "owner": self.owner if self.uid is None else user_name(self.uid),
            "group": self.group if self.gid is None else group_name(self.gid),
        }
        return {**wanted, "src": self.src} if self.state == "link" else {**wanted, "mode": f"{self.mode:04o}"}


@dataclass(frozen=True)
class Step:
    """One change: what is there, and what is to be there."""

    entry: Entry
    before: Attributes
    old_content: bytes
    rewrite: bool  # the content differs, or there was no such file


class SetError(Exception):
    """A message for the user."""


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def current_attributes(path: str) -> Attributes:
    """The state of `path` itself; symbolic links are not followed."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"state": "absent"}
    owners = {"owner": user_name(found.st_uid), "group": group_name(found.st_gid)}
    if stat.S_ISLNK(found.st_mode):
        return {"state": "link", **owners, "src": os.readlink(path)}  # noqa: PTH115  Path would tidy it up
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "special file")
    return {"state": kind, **owners, "mode": f"{stat.S_IMODE(found.st_mode):04o}"}


def parse_entry(raw: dict[str, Any], check_mode: bool) -> tuple[Entry, list[str]]:
    """One entry and what is wrong with its parameters alone."""
    path, state, errors = raw["path"], raw["state"], []
    label = f"{path} ({state})"

    def forbid(name: str) -> None:
        if raw[name] is not None:
            errors.append(f"{label}: '{name}' is not allowed with this state")

    if not path.startswith("/") or path.startswith("//") or os.path.normpath(path) != path:
        errors.append(f"{label}: the path must be absolute and without '..', '//' or a trailing '/'")
    if state != "file":
        forbid("content")
        forbid("validate")
    elif raw["content"] is None:
        errors.append(f"{label}: 'content' is required")
    if state != "link":
        forbid("src")
    elif not raw["src"]:
        errors.append(f"{label}: 'src' is required")
    mode = raw["mode"] if raw["mode"] is not None else DEFAULT_MODE.get(state, "0")
    if state in DEFAULT_MODE and not re.fullmatch("0[0-7]{3,4}", mode):
        errors.append(
            f"{label}: mode '{mode}' must be a quoted string of octal digits that begins with 0, such as '0644'"
        )
        mode = "0"
    elif state == "link":
        forbid("mode")
        mode = "0"
    elif state == "absent":
        mode = "0"
    if raw["validate"] is not None and "%s" not in raw["validate"]:
        errors.append(f"{label}: 'validate' must contain %s")

    def number(what: str, name: str) -> int | None:
        if state == "absent":
            return None
        try:
            if name.isascii() and name.isdigit():
                return int(name)
            return pwd.getpwnam(name).pw_uid if what == "owner" else grp.getgrnam(name).gr_gid
        except KeyError:
            if not check_mode:
                errors.append(f"{label}: {what} '{name}' does not exist on this host")
            return None

    entry = Entry(
        path=path,
        state=state,
        content=(raw["content"] or "").encode("utf-8", "surrogateescape"),
        mode=int(mode, 8),
        owner=raw["owner"],
        group=raw["group"],
        uid=number("owner", raw["owner"]),
        gid=number("group", raw["group"]),
        src=raw["src"] or "",
        validate=raw["validate"],
    )
    return entry, errors


def plan(raw_entries: list[dict[str, Any]], check_mode: bool) -> list[Step]:
    """The changes to make, in order. Raises SetError naming everything that is wrong; writes nothing."""
    steps: list[Step] = []
    errors: list[str] = []
    planned: dict[str, str] = {}  # path -> state, of the entries seen so far
    for raw in raw_entries:
        entry, found = parse_entry(raw, check_mode)
        before = current_attributes(entry.path) if not found else {"state": "absent"}
        if entry.path in planned:
            found.append(f"{entry.path}: listed twice")
        if not found:
            found += conflicts(entry, before["state"], planned, check_mode)
        planned[entry.path] = entry.state
        errors += found
        if found:
            continue
        old_content = b""
        if entry.state == before["state"] == "file":
            old_content = Path(entry.path).read_bytes()
        rewrite = entry.state == "file" and (before["state"] != "file" or old_content != entry.content)
        if rewrite or before != entry.attributes():
            steps.append(Step(entry, before, old_content, rewrite))
    if errors:
        raise SetError("nothing was changed: " + "; ".join(errors))
    return steps


def conflicts(entry: Entry, now: str, planned: dict[str, str], check_mode: bool) -> list[str]:
    """What on the host, or in the earlier entries, stands in the way of `entry`."""
    label = f"{entry.path} ({entry.state})"
    replaceable = {"file": ("absent", "file", "link"), "directory": ("absent", "directory"), "link": ("absent", "link")}
    if entry.state in replaceable and now not in replaceable[entry.state]:
        return [f"{label}: is a {now} now, and is not replaced; move it away first"]
    if entry.state == "absent":
        if now != "directory":
            return []
        left = {str(path) for path in Path(entry.path).iterdir()}
        left = {path for path in left if planned.get(path) != "absent"}
        left |= {path for path, state in planned.items() if state != "absent" and str(Path(path).parent) == entry.path}
        return [f"{label}: the directory is not empty (it holds {min(left)})"] if left else []
    parent = str(Path(entry.path).parent)
    state = planned.get(parent)
    if state in ("absent", "file"):
        return [f"{label}: an earlier entry makes its parent {parent} {'a file' if state == 'file' else 'absent'}"]
    if state or Path(parent).is_dir():
        return []
    if os.path.lexists(parent):
        return [f"{label}: its parent {parent} is not a directory"]
    return [] if check_mode else [f"{label}: its parent {parent} neither exists nor is an earlier entry"]


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put_file(module: AnsibleModule, entry: Entry, uid: int, gid: int) -> None:
    path = Path(entry.path)
    # The leading dot hides it from readers of conf.d-like directories.
    fd, temporary = tempfile.mkstemp(prefix=".ansible-", suffix=f".{path.name}", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(entry.content)
            file.flush()
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), entry.mode)
            os.fsync(file.fileno())
        module.set_context_if_different(temporary, module.selinux_default_context(entry.path), False)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def put_link(entry: Entry, uid: int, gid: int) -> None:
    path = Path(entry.path)
    with tempfile.TemporaryDirectory(prefix=".ansible-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        temporary.symlink_to(entry.src)
        os.lchown(temporary, uid, gid)
        temporary.replace(path)


def put_attributes(entry: Entry, uid: int, gid: int) -> None:
    """Owner, then mode (a change of owner clears special bits), without following a link planted meanwhile."""
    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, entry.mode)
    finally:
        os.close(fd)


def apply(module: AnsibleModule, step: Step) -> None:
    entry = step.entry
    path = Path(entry.path)
    if entry.state == "absent":
        (path.rmdir if step.before["state"] == "directory" else path.unlink)()
    elif entry.uid is None or entry.gid is None:
        raise SetError(f"{entry.path}: owner or group is unknown")  # plan() has refused this already
    elif entry.state == "link":
        put_link(entry, entry.uid, entry.gid)
    elif step.rewrite:
        put_file(module, entry, entry.uid, entry.gid)
    else:
        if entry.state == "directory" and step.before["state"] == "absent":
            path.mkdir(0o700)
        put_attributes(entry, entry.uid, entry.gid)
    sync_directory(path.parent)


def validate(module: AnsibleModule, steps: list[Step]) -> None:
    """Run the validators on copies outside the target directories."""
    for step in steps:
        if not step.rewrite or step.entry.validate is None:
            continue
        with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
            copy = Path(folder, Path(step.entry.path).name)
            copy.write_bytes(step.entry.content)
            command = [word.replace("%s", str(copy)) for word in shlex.split(step.entry.validate)]
            try:
                code, out, err = module.run_command(command, handle_exceptions=False)
            except OSError as error:
                raise SetError(
                    f"nothing was changed: {step.entry.path}: cannot run '{step.entry.validate}': {error}"
                ) from error
        if code:
            output = "\n".join(text.strip() for text in (out, err) if text.strip())
            raise SetError(
                f"nothing was changed: {step.entry.path}: the new content was refused by"
                f" '{step.entry.validate}' (exit {code}): {output or 'no output'}"
            )


def as_text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return f"(not text, {len(content)} bytes)\n"


def diff_part(header: str, before: str, after: str) -> dict[str, str]:
    return {"before": before, "after": after, "before_header": header, "after_header": header}


def diff(steps: list[Step]) -> list[dict[str, str]]:
    parts = []
    for step in steps:
        path, before, after = step.entry.path, step.before, step.entry.attributes()
        if step.rewrite:
            parts.append(diff_part(path, as_text(step.old_content), as_text(step.entry.content)))
        if before != after:
            texts = ["".join(f"{key}: {value}\n" for key, value in part.items()) for part in (before, after)]
            parts.append(diff_part(f"{path} (attributes)", *texts))
    return parts


class FileSetModule(AnsibleModule):  # type: ignore[misc,unused-ignore]
    """AnsibleModule logs every argument to the host's journal; here that would be whole files."""

    def _log_invocation(self) -> None:
        self.log("Invoked with paths=" + " ".join(entry["path"] for entry in self.params["files"]))


def main() -> None:
    module = FileSetModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": ENTRY_SPEC}},
        supports_check_mode=True,
    )
    # Else every content would be cut out of the diff and, when it is short, out of the paths.
    module.no_log_values.clear()
    shown = [{**raw, "content": None if raw["content"] is None else "(not shown)"} for raw in module.params["files"]]
    invocation = {"module_args": {"files": shown}}
    done: list[str] = []

    def fail(message: str) -> NoReturn:
        module.fail_json(msg=message, changed=bool(done), changed_paths=done, invocation=invocation)
        raise AssertionError("unreachable")

    steps: list[Step] = []
    path = ""
    try:
        steps = plan(module.params["files"], module.check_mode)
        changed_paths = [step.entry.path for step in steps]
        result: dict[str, Any] = {"changed": bool(steps), "changed_paths": changed_paths, "invocation": invocation}
        if module._diff:
            result["diff"] = diff(steps)
        if not module.check_mode:
            validate(module, steps)
            for step in steps:
                path = step.entry.path
                apply(module, step)
                done.append(path)
    except SetError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{path or error.filename}: {error.strerror or errno.errorcode.get(error.errno or 0, 'I/O error')}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
