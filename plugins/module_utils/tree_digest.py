# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""One digest for a folder's files, the same on the control node and on every host.

A manifest maps each relative path to what is there: `f <sha256>` for a file, `x <sha256>` for an executable one,
`l <target>` for a symbolic link, `s` for anything else (socket, device), `n` where a name is not UTF-8. Folders
follow from the paths, so that an empty one does not count: git does not keep those either. Neither do times, owners,
permissions other than the exec bit, the umask or the order in which the file system lists names.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import posixpath
import re
import zlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

DEFAULT_EXCLUDE = [
    "__pycache__",
    "*.pyc",
    ".git",
    ".gitignore",
    ".*.swp",
    ".DS_Store",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
]
DIGEST = re.compile("[0-9a-f]{16}")

# What a playbook may set; the module takes two more from the action plugin.
ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "query", "previous"], "default": "present"},
    "src": {"type": "path"},
    "dest": {"type": "str", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "keep": {"type": "int", "default": 3},
    "revision": {"type": "str", "default": ""},
    "switch": {"type": "bool", "default": True},
    "exclude": {"type": "list", "elements": "str", "default": DEFAULT_EXCLUDE},
}

Manifest = dict[str, str]


class TreeError(Exception):
    """A message for the user."""


def _utf8(name: str) -> str | None:
    """A name as the file system's own bytes have it, whatever the locale; None when those are not UTF-8."""
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return None


def path_below(root: str, path: str) -> Path:
    """Where a path of the manifest is on this machine, whatever the locale; `root` itself for the empty path."""
    return Path(root, os.fsdecode(path.encode("utf-8")))


def _file_digest(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def scan(root: str, exclude: Iterable[str]) -> Manifest:
    """The manifest of a folder. Symbolic links below it are not followed."""
    patterns = list(exclude)
    manifest: Manifest = {}
    folders = [(root, "")]
    while folders:
        folder, prefix = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = _utf8(entry.name) or ascii(entry.name)
                path = prefix + name
                if any(fnmatchcase(name, pattern) or fnmatchcase(path, pattern) for pattern in patterns):
                    continue
                # Path.readlink() would tidy it up.
                target = _utf8(os.readlink(entry.path)) if entry.is_symlink() else ""  # noqa: PTH115
                if _utf8(entry.name) is None or target is None:
                    manifest[path] = "n"
                elif target:
                    manifest[path] = "l " + target
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, path + "/"))
                elif entry.is_file(follow_symlinks=False):
                    executable = entry.stat(follow_symlinks=False).st_mode & 0o111
                    manifest[path] = ("x " if executable else "f ") + _file_digest(entry.path)
                else:
                    manifest[path] = "s"
    return manifest


def digest(manifest: Manifest) -> str:
    """16 hexadecimal characters."""
    # A path or target cannot hold a NUL. Code points sort as their UTF-8 bytes do.
    text = "".join(f"{path}\0{manifest[path]}\0" for path in sorted(manifest))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def check(manifest: Manifest) -> None:
    """Raise TreeError for paths and links that lead, or may lead, out of the folder, and for special files."""
    for path, what in manifest.items():
        if not path or posixpath.isabs(path) or posixpath.normpath(path) != path or path.split("/")[0] == "..":
            raise TreeError(f"{path!r}: not a path inside the folder")
        if any(parent in manifest for parent in parents(path)):
            raise TreeError(f"{path}: lies below something that is not a folder")
        if what.startswith("l "):
            target = what[2:]
            end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if posixpath.isabs(target) or end.split("/")[0] == "..":
                raise TreeError(
                    f"{path}: is a symbolic link to {target}; it must be relative and stay inside the folder"
                )
        elif what == "n":
            raise TreeError(f"{path}: the name, or what the link points to, is not UTF-8")
        elif not re.fullmatch("[fx] [0-9a-f]{64}", what):
            raise TreeError(f"{path}: is neither a file, a folder nor a symbolic link")


def parents(path: str) -> list[str]:
    """The folders above a relative path, the nearest first, without the root itself."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def pack(manifest: Manifest) -> str:
    """A manifest as one short string, for a module argument."""
    return base64.b64encode(zlib.compress(json.dumps(manifest).encode())).decode()


def unpack(packed: str) -> Manifest:
    manifest: Manifest = json.loads(zlib.decompress(base64.b64decode(packed)))
    return manifest
