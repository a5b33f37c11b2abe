# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Puts a finished folder in the place of another one."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths so that neither is ever missing; False where kernel, libc or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    return bool(renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(new: Path, target: Path) -> None:
    """Give ``new`` the name ``target``, and remove what had that name.

    :param new: a folder in the same parent folder as ``target``.
    """
    if not os.path.lexists(target):
        new.rename(target)
    elif exchange(new, target):
        remove(new)
    else:
        old = target.with_name(f".{target.name}.old")
        # One may be left of a run that ended between the renames.
        remove(old)
        target.rename(old)
        new.rename(target)
        remove(old)
