# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Lets processes on one machine take turns at a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """One process at a time, without a lock file."""
    if not folder.is_dir():  # check mode
        yield
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
