# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""A folder of wheels for hosts that reach no package index: what a lock needs of it, and what it lacks.

For the control node only: hosts have no `packaging`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import (
    Lock,
    LockError,
    Pin,
    parse,
    pins_for,
    target_environment,
)
from ansible_collections.dataops.airflow.plugins.module_utils.lock_rules import WHEELHOUSE_COMMAND
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem
from ansible_collections.dataops.airflow.plugins.module_utils.turn import turn
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

OLDER_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Minor version of glibc 2 -> the name that wheels for it had before PEP 600."""

SHOWN = 10
"""So many missing wheels are named; an empty folder lacks them all."""


class WheelhouseError(Exception):
    """What is wrong with a wheelhouse or a target."""


@dataclass(frozen=True)
class Target:
    """What decides which wheels a host can install.

    :param python: full version of the interpreter, such as ``3.11.2``.
    :param machine: what ``platform.machine()`` says, such as ``x86_64``.
    :param glibc: version of the C library, such as ``2.36``.
    """

    python: str
    machine: str
    glibc: str

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("python", self.python, r"3\.\d+\.\d+\S*"),
            ("machine", self.machine, r"\w+"),
            ("glibc", self.glibc, r"2\.\d+"),
        ):
            if not re.fullmatch(allowed, value):
                raise WheelhouseError(f"{value!r} is no {what} of a host that wheels can be chosen for")

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.minor))} on {self.machine} with glibc {self.glibc}"

    @property
    def minor(self) -> tuple[int, int]:
        """Version of the interpreter, as in ``(3, 11)``."""
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def platforms(self) -> list[str]:
        """Platform tags of wheels that run there, the best first.

        Written out, because pip takes the tag of another machine as it is, without the older ones that it implies.
        """
        newest = int(self.glibc.split(".")[1])
        oldest = 5 if self.machine in ("x86_64", "i686") else 17
        found = []
        for minor in range(newest, oldest - 1, -1):
            names = [f"manylinux_2_{minor}", *([OLDER_NAMES[minor]] if minor in OLDER_NAMES else [])]
            found += [f"{name}_{self.machine}" for name in names]
        return [f"linux_{self.machine}", *found]


@functools.cache
def ranks(target: Target) -> dict[Tag, int]:
    """Tags of wheels that a target can install -> rank; the lowest is the best."""
    interpreter = "cp{}{}".format(*target.minor)
    tags = [
        *cpython_tags(target.minor, [interpreter], target.platforms),
        *compatible_tags(target.minor, interpreter, target.platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


@functools.cache
def parse_wheel(file: str) -> tuple[str, Version, frozenset[Tag]] | None:
    """Name, version and tags that the name of a file says; None where it is not that of a wheel."""
    try:
        name, version, _build, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return None
    return str(name), version, tags


def is_of(pin: Pin, file: str, digest: str) -> bool:
    """Whether a file is one of the wheels that a pin allows.

    :param digest: the file's SHA-256.
    """
    wheel = parse_wheel(file)
    return wheel is not None and wheel[:2] == (pin.name, Version(pin.version)) and f"sha256:{digest}" in pin.hashes


def rank(file: str, target: Target) -> int | None:
    """How well a wheel suits a target, the lowest best; None where it does not run there."""
    wheel = parse_wheel(file)
    fitting = [ranks(target)[tag] for tag in (wheel[2] if wheel else ()) if tag in ranks(target)]
    return min(fitting, default=None)


@dataclass(frozen=True)
class Gap:
    """A package that no file of the folder can be installed from.

    :param damaged: files that would do, had they one of the hashes of the lock.
    """

    pin: Pin
    target: Target
    damaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.pin.name}=={self.pin.version} for {self.target}"
        return f"{text}: {', '.join(self.damaged)} has a hash that the lock does not have" if self.damaged else text


def hash_folder(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files in a folder, hidden ones left out; nothing where there is no folder."""

    def digest(file: Path) -> str:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    files = [file for file in folder.iterdir() if not file.name.startswith(".")] if folder.is_dir() else []
    files = sorted(file for file in files if file.is_file())
    # Hashing releases the interpreter's lock, so threads are as good as processes.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip((file.name for file in files), threads.map(digest, files), strict=True))


def pins_of(lock: Lock, uv_lines: str, target: Target) -> list[Pin]:
    """Return what a target installs: the pins of the lock whose markers apply there, and the installer."""
    environment = target_environment(target.python, target.machine)
    return [*pins_for(lock, environment), *pins_for(parse(uv_lines), environment)]


def choose(files: Mapping[str, str], pins: Iterable[Pin], target: Target) -> tuple[dict[str, str], list[Gap]]:
    """Choose the wheels that a target gets.

    :param files: name -> SHA-256 of what the folder has.
    :returns: name -> SHA-256 of the best wheel of each pin, and the pins without one.
    """
    named: dict[tuple[str, Version], list[str]] = {}
    for file in sorted(files):
        wheel = parse_wheel(file)
        if wheel:
            named.setdefault(wheel[:2], []).append(file)
    chosen, gaps = {}, []
    for pin in pins:
        candidates = named.get((pin.name, Version(pin.version)), [])
        ranked = {file: found for file in candidates if (found := rank(file, target)) is not None}
        good = [file for file in ranked if is_of(pin, file, files[file])]
        if good:
            best = min(good, key=lambda file: ranked[file])
            chosen[best] = files[best]
        else:
            gaps.append(Gap(pin, target, tuple(ranked)))
    return chosen, gaps


def find_gaps(files: Mapping[str, str], lock: Lock, targets: Iterable[Target], uv_lines: str) -> list[Gap]:
    """Return which pins have no usable wheel, for each target."""
    return [gap for target in targets for gap in choose(files, pins_of(lock, uv_lines, target), target)[1]]


def missing(folder_files: Mapping[str, str], lock: Lock, targets: Iterable[Target], uv_lines: str) -> list[str]:
    """Tell which pins have no usable wheel: none of that name and version, for that target, with a hash of the pin.

    :param folder_files: name -> SHA-256, see `hash_folder`.
    :param uv_lines: requirement lines of the installer, with hashes.
    """
    return [str(gap) for gap in find_gaps(folder_files, lock, targets, uv_lines)]


def find_surplus(files: Mapping[str, str], lock: Lock, uv_lines: str) -> list[str]:
    """Return the files that no line of the lock names, whatever the target."""
    pins = [*lock.pins, *parse(uv_lines).pins]
    return [file for file in files if not any(is_of(pin, file, files[file]) for pin in pins)]


def targets_of(probes: Iterable[Mapping[str, Any]]) -> list[Target]:
    """Return the kinds of probed hosts, each once; none for a host that is unfit for Airflow anyway.

    :param probes: what `dataops.airflow.host_probe` returned as ``probe``.
    """
    found: dict[Target, None] = {}
    for probe in probes:
        with contextlib.suppress(WheelhouseError):  # another rule tells that it has no Python
            found[Target(probe["python"]["full"], probe["machine"], probe["glibc"])] = None
    return list(found)


def check_wheelhouse(folder: Path, lock: Path, targets: Iterable[Target], uv_lines: str) -> list[Problem]:
    """Check that a folder has a wheel of every package that the targets install.

    :param lock: the lock's file.
    """
    try:
        gaps = missing(hash_folder(folder), parse(lock.read_text(encoding="utf-8")), targets, uv_lines)
    except (LockError, OSError) as error:
        allowed = "a lock with hashes, as uv pip compile --generate-hashes writes it"
        return [Problem(f"airflow_lock {lock}", str(error), allowed, "make the lock again")]
    if not gaps:
        return []
    more = [f"and {len(gaps) - SHOWN} more"] if len(gaps) > SHOWN else []
    return [
        Problem(
            f"airflow_wheelhouse {folder}",
            "\n".join([f"{len(gaps)} without a usable wheel:", *gaps[:SHOWN], *more]),
            "for each package of the lock, and for uv, a wheel that fits the hosts and has a hash of the lock",
            f"{WHEELHOUSE_COMMAND}\nwhere an index can be reached",
        )
    ]


def bundle(folder: Path, lock: Path, uv_lines: str, target: Target, into: Path, *, complete: bool = True) -> Path:
    """Write an uncompressed tar with the wheels that a target needs, the installer's among them, and no others.

    Written once for all hosts of a run, however many ask at the same time.

    :param folder: the wheelhouse.
    :param lock: the lock's file.
    :param into: folder of this run for temporary files; the tar stays there.
    :param complete: refuse a folder that lacks some; otherwise the host gets the rest from its index.
    :returns: the tar's path. Its members are files at its top.
    :raises WheelhouseError: a wheel is missing.
    """
    text = lock.read_text(encoding="utf-8")
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    key = hashlib.sha256(repr((str(folder), text, uv_lines, target, complete, stamps)).encode()).hexdigest()[:16]
    final = into / f"wheels-{key}.tar"
    with turn(into):
        if final.exists():
            return final
        chosen, gaps = choose(hash_folder(folder), pins_of(parse(text), uv_lines, target), target)
        if gaps and complete:
            names = ", ".join(map(str, gaps[:SHOWN]))
            raise WheelhouseError(f"{folder} has no usable wheel of {names}; run {WHEELHOUSE_COMMAND}")
        fd, partial = tempfile.mkstemp(dir=into)
        with os.fdopen(fd, "wb") as raw, tarfile.open(fileobj=raw, mode="w", encoding="utf-8") as tar:
            for name in sorted(chosen):
                with (folder / name).open("rb") as file:
                    member = tarfile.TarInfo(name)
                    member.size = os.fstat(file.fileno()).st_size
                    tar.addfile(member, file)
        Path(partial).replace(final)
    return final
