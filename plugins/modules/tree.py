#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Delivers a folder under its digest and switches to it atomically."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tree
short_description: Deliver a folder under its digest and switch to it atomically
version_added: 0.1.0
description:
  - Copies O(src) to C(<dest>/<digest>) and makes C(<dest>/current) a relative symbolic link to it. The folder appears
    under its name only when it is complete and its digest, computed again from the host's disk, is right.
  - The digest covers relative paths, contents, exec bits and link targets. It is the same on every host and control
    node, whatever the times, owners and umask. Empty folders are not delivered.
  - A folder whose files, owners or permissions were changed on the host is replaced by a fresh copy.
  - C(<dest>/previous) is a link to the folder that C(current) pointed to before. O(state=previous) goes back to it.
  - The files get the time of the switch, by which Airflow sees that they changed.
  - An interrupted run leaves C(current) as it was; what it left behind is removed by the next run.
  - When nothing is to be done this costs one module call and no transfer.
options:
  state:
    description:
      - V(present) delivers O(src).
      - V(query) changes nothing and tells what C(current) points to, with the digest computed from its files.
      - V(previous) makes C(current) what C(previous) points to, whose files must be what they were. C(previous) stays,
        so that a second call changes nothing; remove the link once it is no way back any more.
    type: str
    choices: [present, query, previous]
    default: present
  src:
    description:
      - Folder on the control node; a relative path is looked up as M(ansible.builtin.copy) does. Required for
        O(state=present). With O(state=query), its digest is told as well.
      - Files are delivered as they are; vault-encrypted ones are not decrypted.
      - A symbolic link in it must be relative and stay inside; else it is an error, as is a socket or a device.
    type: path
  dest:
    description: Folder on the host, an absolute path. It is made when it is missing, its parent is not.
    type: str
    required: true
  owner:
    description:
      - Name or number of the owner of all that is delivered.
      - In check mode a name that does not exist yet is not an error.
    type: str
    default: root
  group:
    description:
      - Name or number of the group of all that is delivered.
      - In check mode a name that does not exist yet is not an error.
    type: str
    default: root
  keep:
    description:
      - How many delivered folders to keep in O(dest), the current one included, at least 1. Those used last are kept.
    type: int
    default: 3
  revision:
    description:
      - Where the files come from, such as a commit. C(<dest>/<digest>.revision) has it, until the folder is removed or
        the same files are delivered with another one.
    type: str
    default: ""
  switch:
    description: V(false) makes the folder, and leaves C(current), what O(keep) counts and O(revision) as they are.
    type: bool
    default: true
  exclude:
    description:
      - Glob patterns of what is neither delivered nor compared. Each is matched against every component of a path and
        against the whole relative path, in which C(*) also matches C(/).
      - Give the same list with O(state=query).
    type: list
    elements: str
    default: [__pycache__, '*.pyc', .git, .gitignore, '.*.swp', .DS_Store, .pytest_cache, .ruff_cache, .mypy_cache]
  manifest:
    description: What O(src) holds. Set by the action plugin, not by a playbook.
    type: str
  archive:
    description: The transferred files on the host. Set by the action plugin, not by a playbook.
    type: path
attributes:
  action:
    description: The action plugin reads O(src) and transfers it.
    support: full
  check_mode:
    description: Gives the same answer without writing, also where O(dest) does not exist yet.
    support: full
  diff_mode:
    description: One line for each file that is added, removed or changed, with the start of its digest.
    support: full
notes:
  - Folders get the mode 0755, files 0644, or 0755 where the source has an exec bit.
  - Hosts need Python 3.9 or newer.
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Deliver the DAGs
  dataops.airflow.tree:
    src: "{{ inventory_dir }}/../../dags"
    dest: /opt/airflow/dags
    group: airflow
    keep: 5
  register: dags

- name: Ask what a host has
  dataops.airflow.tree:
    state: query
    dest: /opt/airflow/dags
  register: dags_now

- name: Refuse a host whose DAGs are not the delivered ones
  ansible.builtin.assert:
    that: dags_now.digest == dags.digest
"""

RETURN = r"""
digest:
  description:
    - 16 hexadecimal characters.
    - With O(state=query) computed from the files that C(current) points to, null when that folder is missing.
  returned: success
  type: str
  sample: 3f0c6a1d9b52e874
source:
  description: What RV(digest) would be after O(src) was delivered.
  returned: O(state=query) with O(src)
  type: str
previous:
  description:
    - What C(current) pointed to before. Equal to RV(digest) when it was this one already, null when it was missing or
      nothing that this module made.
  returned: O(state=present) or O(state=previous)
  type: str
pending:
  description: Whether a call with O(switch=true) has something to do still.
  returned: O(state=present)
  type: bool
recorded:
  description:
    - What C(current) points to, null when it is missing. Differs from RV(digest) when files were changed on the host.
  returned: O(state=query)
  type: str
revision:
  description: The recorded O(revision) of what C(current) points to; empty where there is none.
  returned: O(state=query)
  type: str
way_back:
  description:
    - What C(previous) points to, as the keys C(recorded), C(digest) and C(revision), which mean what they mean for
      C(current).
  returned: O(state=query)
  type: dict
path:
  description: C(<dest>/current).
  returned: success
  type: str
"""

import grp
import os
import pwd
import re
import shutil
import stat
import tarfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.exchange import remove, replace
from ansible_collections.dataops.airflow.plugins.module_utils.tree_digest import (
    ARGUMENT_SPEC,
    DIGEST,
    Manifest,
    TreeError,
    check,
    digest,
    parents,
    path_below,
    scan,
    unpack,
)
from ansible_collections.dataops.airflow.plugins.module_utils.turn import turn

LOOK = 5
"""Seconds that Airflow takes to parse a file, and more."""

LEFTOVER = re.compile(r"\.([0-9a-f]{16}\.(partial|old|revision)|(current|previous)\.new)")


def number(what: str, name: str, check_mode: bool) -> int | None:
    """The number of a user or group; None for one that does not exist yet, in check mode."""
    try:
        if name.isascii() and name.isdigit():
            return int(name)
        return pwd.getpwnam(name).pw_uid if what == "owner" else grp.getgrnam(name).gr_gid
    except KeyError:
        if check_mode:
            return None
        raise TreeError(f"{what} '{name}' does not exist on this host") from None


def folders_of(manifest: Manifest) -> list[str]:
    """All folders, those above before those below, the root itself first as the empty string."""
    return ["", *sorted({parent for path in manifest for parent in parents(path)})]


def wanted_mode(what: str | None) -> int:
    return 0o644 if what and what.startswith("f ") else 0o755


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


class Tree:
    """The folder `dest` on this host."""

    def __init__(self, dest: str, exclude: list[str]) -> None:
        self.dest = Path(os.path.normpath(dest))
        self.exclude = exclude
        self.link = self.folder("current")
        if not self.dest.is_absolute():
            raise TreeError("dest must be an absolute path")
        if os.path.lexists(self.dest) and not self.dest.is_dir():
            raise TreeError("is not a folder")
        if os.path.lexists(self.link) and not self.link.is_symlink():
            raise TreeError("'current' is not a symbolic link; move it away first")
        self.linked = str(self.link.readlink()) if self.link.is_symlink() else None
        back = self.folder("previous")
        self.back = str(back.readlink()) if back.is_symlink() else None

    def folder(self, name: str) -> Path:
        return self.dest / name

    def read(self, name: str | None) -> Manifest | None:
        """What is in a delivered folder; None when it is missing."""
        if name is None or not DIGEST.fullmatch(name) or not is_folder(self.folder(name)):
            return None
        return scan(str(self.folder(name)), self.exclude)

    def revision(self, name: str | None) -> str:
        """The recorded revision of a delivered folder."""
        path = self.folder(f"{name}.revision")
        return path.read_text(encoding="utf-8").strip() if name and path.is_file() else ""

    def describe(self, name: str | None) -> dict[str, Any]:
        found = self.read(name)
        return {
            "digest": None if found is None else digest(found),
            "recorded": name,
            "revision": self.revision(name),
        }

    def surplus(self, first: str, keep: int) -> list[str]:
        """The folders beyond `keep`: all but `first`, the current and the previous one, and those used last."""
        if not self.dest.is_dir():
            return []
        ours = [path for path in self.dest.iterdir() if DIGEST.fullmatch(path.name) and is_folder(path)]
        others = [path for path in ours if path.name != first]
        # The current one becomes the previous one, unless it stays.
        back = self.back if first == self.linked else None
        others.sort(key=lambda path: (path.name in (self.linked, back), path.lstat().st_mtime_ns), reverse=True)
        return sorted(path.name for path in others[keep - 1 :])

    def wrong_attributes(self, name: str, manifest: Manifest, uid: int | None, gid: int | None) -> dict[str, str]:
        """The paths whose owner or mode is not the wanted one, and what it is."""
        wrong = {}
        for path in [*folders_of(manifest), *manifest]:
            found = path_below(str(self.folder(name)), path).lstat()
            mode = stat.S_IMODE(found.st_mode)
            mode_is_wrong = mode != wanted_mode(manifest.get(path)) and not stat.S_ISLNK(found.st_mode)
            if mode_is_wrong or (found.st_uid, found.st_gid) != (uid, gid):
                wrong[path or "."] = f"{found.st_uid}:{found.st_gid} {mode:04o}"
        return wrong

    def clean(self) -> None:
        for path in list(self.dest.iterdir()):
            if LEFTOVER.fullmatch(path.name):
                remove(path)

    def install(self, name: str, manifest: Manifest, archive: str, uid: int, gid: int) -> None:
        partial = self.folder(f".{name}.partial")
        try:
            fill(str(partial), manifest, archive, uid, gid)
            differs = ", ".join(differences(scan(str(partial), self.exclude), manifest)[:5])
            if differs:
                raise TreeError(f"the unpacked copy is not the source ({differs}); did that change during the run?")
            # One flush for all. A file that a crash tears nevertheless is found by the next run, which reads them all.
            os.sync()
            replace(partial, self.folder(name))
        except BaseException:
            remove(partial)
            raise

    def record(self, name: str, revision: str, uid: int, gid: int) -> None:
        """Write down where a folder comes from."""
        path = self.folder(f"{name}.revision")
        if not revision:
            return remove(path)
        temporary = self.folder(f".{name}.revision")
        temporary.write_text(f"{revision}\n", encoding="utf-8")
        os.chown(temporary, uid, gid)
        temporary.chmod(0o644)
        temporary.replace(path)
        return None

    def switch(self, name: str, manifest: Manifest) -> None:
        # Airflow parses a file again at once when it is younger than the end of its last look, which may be under way.
        soon = time.time() + LOOK
        for path, what in manifest.items():
            if not what.startswith("l "):
                os.utime(path_below(str(self.folder(name)), path), (soon, soon))
        os.utime(self.folder(name))  # surplus() goes by it
        self.point("current", name)

    def point(self, link: str, name: str) -> None:
        """Make a link, or let it point elsewhere, in one step."""
        temporary = self.folder(f".{link}.new")
        remove(temporary)
        temporary.symlink_to(name)
        temporary.replace(self.folder(link))

    def forget(self, name: str) -> None:
        """Remove a delivered folder, and what speaks of it."""
        remove(self.folder(name))
        remove(self.folder(f"{name}.revision"))
        if self.folder("previous").is_symlink() and str(self.folder("previous").readlink()) == name:
            remove(self.folder("previous"))


def fill(root: str, manifest: Manifest, archive: str, uid: int, gid: int) -> None:
    """Unpack the archive into a new folder. The checked manifest, not the archive, says which paths there are."""
    folders = folders_of(manifest)
    for folder in folders:
        path_below(root, folder).mkdir(0o700)
    with tarfile.open(archive, "r:gz", encoding="utf-8") as tar:
        for member in tar:
            what = manifest.get(member.name, "")
            source = tar.extractfile(member) if member.isreg() and what[:1] in ("f", "x") else None
            if source is None:
                raise TreeError(f"the archive holds {member.name!r}, which the manifest does not")
            with source, path_below(root, member.name).open("xb") as file:
                shutil.copyfileobj(source, file)
                os.fchown(file.fileno(), uid, gid)
                os.fchmod(file.fileno(), wanted_mode(what))
    for path, what in manifest.items():
        if what.startswith("l "):
            link = path_below(root, path)
            link.symlink_to(os.fsdecode(what[2:].encode("utf-8")))
            os.lchown(link, uid, gid)
    for folder in reversed(folders):
        own_folder(path_below(root, folder), uid, gid)


def own_folder(path: Path, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)
    path.chmod(wanted_mode(None))


def differences(one: Manifest, other: Manifest) -> list[str]:
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def content_diff(tree: Tree, name: str, before: Manifest, after: Manifest) -> dict[str, str]:
    paths = differences(before, after)
    texts = ["".join(f"{path}  {part[path][:14]}\n" for path in paths if path in part) for part in (before, after)]
    headers = [f"{tree.link} -> {target}" for target in (tree.linked or "nothing", name)]
    return {"before": texts[0], "after": texts[1], "before_header": headers[0], "after_header": headers[1]}


def query(tree: Tree) -> dict[str, Any]:
    return {"changed": False, **tree.describe(tree.linked), "way_back": tree.describe(tree.back)}


def previous(tree: Tree, module: AnsibleModule) -> dict[str, Any]:
    manifest = tree.read(tree.back)
    if tree.back is None or manifest is None:
        raise TreeError("there is no previous folder to go back to")
    if digest(manifest) != tree.back:
        raise TreeError(f"the files of the previous folder, {tree.back}, were changed on this host")
    result = {"changed": tree.linked != tree.back, "digest": tree.back, "previous": tree.linked}
    if module._diff:
        result["diff"] = [content_diff(tree, tree.back, tree.read(tree.linked) or {}, manifest)]
    if result["changed"] and not module.check_mode:
        tree.switch(tree.back, manifest)
    return result


def present(tree: Tree, module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    if params["keep"] < 1:
        raise TreeError("keep must be at least 1")
    if not params["manifest"]:
        raise TreeError("the manifest is missing: call this through its action plugin, as dataops.airflow.tree")
    uid = number("owner", params["owner"], module.check_mode)
    gid = number("group", params["group"], module.check_mode)
    manifest = unpack(params["manifest"])
    check(manifest)
    name = digest(manifest)

    found = tree.read(name)
    wrong = tree.wrong_attributes(name, manifest, uid, gid) if found == manifest else {}
    intact = found == manifest and not wrong
    surplus = tree.surplus(name, params["keep"])
    known = tree.revision(name) == params["revision"]
    pending = tree.linked != name or not known or bool(surplus)
    if not params["switch"]:
        surplus = []
    result = {
        "changed": not intact or (params["switch"] and pending),
        "digest": name,
        "previous": tree.linked if DIGEST.fullmatch(tree.linked or "") else None,
        "pending": pending,
    }
    if not intact and not module.check_mode and params["archive"] is None:
        return {**result, "transfer": True}  # the action plugin calls again, with the archive

    if module._diff:
        before = (found if tree.linked == name else tree.read(tree.linked)) or {}
        parts = [content_diff(tree, name, before, manifest)] if params["switch"] or tree.linked == name else []
        if wrong:
            owned = f"{params['owner'] if uid is None else uid}:{params['group'] if gid is None else gid}"
            right = "".join(f"{path}  {owned} {wanted_mode(manifest.get(path)):04o}\n" for path in wrong)
            header = dict.fromkeys(("before_header", "after_header"), f"{tree.folder(name)} (attributes)")
            parts.append(
                {"before": "".join(f"{path}  {now}\n" for path, now in wrong.items()), "after": right, **header}
            )
        if params["switch"] and not known:
            header = dict.fromkeys(("before_header", "after_header"), f"{tree.folder(name)} (revision)")
            parts.append({"before": f"{tree.revision(name)}\n", "after": f"{params['revision']}\n", **header})
        if surplus:
            header = dict.fromkeys(("before_header", "after_header"), f"{tree.dest} (kept folders)")
            parts.append({"before": "".join(f"{old}\n" for old in surplus), "after": "", **header})
        result["diff"] = [part for part in parts if part["before"] != part["after"]]

    # The numbers are known outside check mode: number() has refused anything else.
    if not module.check_mode and uid is not None and gid is not None:
        if not tree.dest.is_dir():
            tree.dest.mkdir(0o700)
            own_folder(tree.dest, uid, gid)
        tree.clean()
        if not intact:
            tree.install(name, manifest, params["archive"], uid, gid)
        if params["switch"] and not known:
            tree.record(name, params["revision"], uid, gid)
        if params["switch"] and tree.linked != name:
            if result["previous"]:
                tree.point("previous", result["previous"])
            tree.switch(name, manifest)
        for old in surplus:
            tree.forget(old)
    return result


def main() -> None:
    module = AnsibleModule(
        # no_log: some 40 bytes for each delivered file are of no use in the host's log
        argument_spec={**ARGUMENT_SPEC, "manifest": {"type": "str", "no_log": True}, "archive": {"type": "path"}},
        supports_check_mode=True,
    )
    try:
        # A timer may deliver while somebody else does.
        with turn(Path(module.params["dest"])):
            tree = Tree(module.params["dest"], module.params["exclude"])
            state = module.params["state"]
            result = query(tree) if state == "query" else (previous if state == "previous" else present)(tree, module)
    except (TreeError, OSError, tarfile.TarError) as error:
        module.fail_json(msg=f"{module.params['dest']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
