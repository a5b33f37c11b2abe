# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Fingerprint of a Python environment: what is installed in it, as one digest, and what differs from its build.

This file is a program, too. The units start through it:

    python3 -I -S fingerprint.py CURRENT WANTED COMMAND...

compares the release that the link CURRENT points at with what it was built with, and its name with the one in the file
WANTED. It becomes COMMAND if they are equal; else it says what differs and exits with 78 (EX_CONFIG).
Only the standard library is needed, and a fifth of a second for 200 packages.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MANIFEST = "release.json"
REFUSED = 78
"""Exit status of a refused start; the units name it in RestartPreventExitStatus."""

BOOKKEEPING = (b"/INSTALLER", b"/REQUESTED", b"/direct_url.json", b"/uv_cache.json")
"""Files in which an installer notes how and when a package came, not what it is."""

Distributions = dict[str, tuple[str, str]]


def distributions(site_packages: Path) -> Distributions:
    """List what is installed.

    :param site_packages: folder with the ``*.dist-info`` folders.
    :returns: ``{normalized name: (version, SHA-256 of RECORD with its lines sorted, less BOOKKEEPING)}``. A
        distribution without a RECORD gets an empty digest.
    """
    found: Distributions = {}
    for info in sorted(site_packages.glob("*.dist-info")):
        name, _, version = info.name[: -len(".dist-info")].partition("-")
        record = info / "RECORD"
        lines = sorted(record.read_bytes().splitlines()) if record.is_file() else []
        lines = [line for line in lines if not line.partition(b",")[0].endswith(BOOKKEEPING)]
        digest = hashlib.sha256(b"\n".join(lines)).hexdigest() if lines else ""
        key = name.lower().replace("_", "-").replace(".", "-")
        # Two folders of one package are one that was not removed: both count.
        other = found.get(key, ("", ""))
        found[key] = (f"{other[0]} and {version}", other[1] + digest) if key in found else (version, digest)
    return found


def digest(installed: Mapping[str, tuple[str, str]], python: str) -> str:
    """Digest over the interpreter's version, the platform and every distribution.

    :param python: the interpreter's version, such as ``3.11``.
    :returns: 64 hexadecimal digits; equal on two hosts if and only if what is installed is equal.
    """
    content = {
        "python": python,
        "platform": [platform.system(), platform.machine()],
        "distributions": {name: list(entry) for name, entry in installed.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def site_packages(release: Path, python: str) -> Path:
    """Folder of the installed distributions of a release."""
    return release / "lib" / f"python{python}" / "site-packages"


def manifest(release: Path) -> dict[str, object]:
    """What a release was built as; empty when that cannot be read."""
    try:
        found = json.loads((release / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    recorded = found.get("distributions") if isinstance(found, dict) else None
    whole = isinstance(recorded, dict) and all(isinstance(one, list) and len(one) == 2 for one in recorded.values())
    return found if whole else {}


def top_names(packages: Path) -> list[str]:
    """Names of the files and folders in site-packages, but for bytecode and the folders that distributions are in."""
    try:
        names = os.listdir(packages)  # noqa: PTH208  the names are all that is wanted
    except OSError:
        return []
    return sorted(name for name in names if name != "__pycache__" and not name.endswith((".dist-info", ".pyc")))


def strays(built: Mapping[str, object], packages: Path) -> list[str]:
    """Name what lies in site-packages, was not built, and belongs to no distribution, such as an ``.egg-info``.

    :param built: the manifest of the release; one without the names, from before they were written down, tells of none.
    """
    recorded = built.get("top")
    if not isinstance(recorded, list):
        return []
    found = set(top_names(packages)).difference(str(name) for name in recorded)
    if found:
        # What an added distribution brought is named by the distribution.
        start = len(f"{packages}/")
        found -= {path[start:].partition("/")[0] for path, *_ in records(packages) if path.startswith(f"{packages}/")}
    return [f"no package: {name}" for name in sorted(found)]


def differences(built: Mapping[str, object], now: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Name the distributions that differ from the build.

    :param built: the manifest of the release.
    :param now: what is installed.
    :returns: ``added``, ``removed`` and ``changed``, each a list such as ``["pandas 2.3.0"]``.
    """
    recorded = built.get("distributions")
    before: dict[str, tuple[str, str]] = {}
    if isinstance(recorded, dict):
        before = {str(name): (str(entry[0]), str(entry[1])) for name, entry in recorded.items()}
    changed = []
    for name in sorted(before.keys() & now.keys()):
        (old, old_files), (new, new_files) = before[name], now[name]
        if old != new:
            changed.append(f"{name} {old} -> {new}")
        elif old_files != new_files:
            changed.append(f"{name} {new} (another list of files)")
    return {
        "added": [f"{name} {now[name][0]}" for name in sorted(now.keys() - before.keys())],
        "removed": [f"{name} {before[name][0]}" for name in sorted(before.keys() - now.keys())],
        "changed": changed,
    }


def records(packages: Path) -> Iterator[tuple[str, str, str, str]]:
    """Every file that a distribution's RECORD lists: (path, distribution, hash, size), but for bytecode.

    Text, not Path: there are thirty thousand of them, and each start of a component waits for this.
    """
    for info in sorted(packages.glob("*.dist-info")):
        name = info.name[: -len(".dist-info")].partition("-")[0]
        record = info / "RECORD"
        # A damaged line has another digest than at the build, which tells of it; here it only must not end the look.
        for line in record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else ():
            try:
                row = next(csv.reader([line])) if '"' in line else line.rsplit(",", 2)
            except csv.Error:
                continue
            if len(row) == 3 and not row[0].endswith(".pyc"):
                path = f"{packages}/{row[0]}"
                yield os.path.normpath(path) if "/../" in path else path, name, row[1], row[2]


def touched(packages: Path, since: int) -> list[str]:
    """Name the installed files that are missing, have another size than their RECORD says, or were written later.

    :param packages: folder with the ``*.dist-info`` folders.
    :param since: nanoseconds since the epoch.
    :returns: such as ``["celery: celery/app/base.py was edited"]``.
    """
    found = []
    for path, name, method, size in records(packages):
        if not method:
            continue
        try:
            state = os.stat(path)  # noqa: PTH116  a Path costs more than the look at the file
        except (OSError, ValueError):
            found.append(f"{name}: {os.path.relpath(path, packages)} is missing")
            continue
        if state.st_mtime_ns > since or (size.isdecimal() and size != str(state.st_size)):
            found.append(f"{name}: {os.path.relpath(path, packages)} was edited")
    return sorted(found)


def edited(packages: Path) -> list[str]:
    """Hash every installed file again, and name those that are not what their package's RECORD says.

    :param packages: folder with the ``*.dist-info`` folders.
    :returns: such as ``["celery: celery/app/base.py was edited", "no package: stray.py"]``. Bytecode is left out: it is
        in no RECORD.
    """
    owners = {path: (name, method) for path, name, method, _size in records(packages)}

    def check(entry: tuple[str, tuple[str, str]]) -> str:
        path, (name, wanted) = entry
        shown = os.path.relpath(path, packages)
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError:
            return f"{name}: {shown} is missing"
        except (OSError, ValueError) as problem:
            return f"{name}: {shown} cannot be read ({problem})"
        method, _, value = wanted.partition("=")
        try:
            hashed = hashlib.new(method, content)
        except ValueError:
            return f"{name}: {shown} has no known kind of hash in its RECORD"
        found = base64.urlsafe_b64encode(hashed.digest()).rstrip(b"=").decode()
        return "" if found == value else f"{name}: {shown} was edited"

    with ThreadPoolExecutor() as pool:
        listed = [(path, owner) for path, owner in owners.items() if owner[1]]
        found = [problem for problem in pool.map(check, listed, chunksize=64) if problem]
    for folder, _folders, files in os.walk(packages):
        for name in files:
            path = f"{folder}/{name}"
            if path not in owners and not name.endswith(".pyc"):
                found.append(f"no package: {os.path.relpath(path, packages)}")
    return sorted(found)


def inspect(release: Path, python: str, deep: bool = False, interpreter: str = "") -> dict[str, object]:
    """Compare a release with what it was built with.

    :param release: the release folder.
    :param python: version of the interpreter that runs it, such as ``3.11``.
    :param deep: also hash every file again, which takes seconds.
    :param interpreter: file of the interpreter that it should have been built with. Empty: any of that version will do.
    :returns: ``fingerprint`` of now, ``drift`` (see :func:`differences`, with ``edited`` and, where it is another one,
        ``interpreter`` added), ``intact``, and ``hidden``: it is not, and without ``deep`` it would seem to be.
    """
    built = manifest(release)
    packages = site_packages(release, python)
    now = distributions(packages)
    drift = differences(built, now) if built else {"added": [], "removed": [], "changed": []}
    if built:
        # What was written after the release was complete; an edit that hides its time is found by the hashes.
        quick = touched(packages, (release / MANIFEST).stat().st_mtime_ns) + strays(built, packages)
    else:
        quick = [f"{MANIFEST}, which tells what was built, is damaged"]
    drift["edited"] = quick
    if deep and built:
        slow = edited(packages)
        # Of a folder, the slow look names the files; it cannot see one without any, nor an edit that was undone.
        drift["edited"] = slow + [one for one in quick if not any(name.startswith(one) for name in slow)]
    if interpreter and built.get("interpreter") != interpreter:
        drift["interpreter"] = [f"{built.get('interpreter', 'unknown')} -> {interpreter}"]
    fingerprint = digest(now, python)
    seen = fingerprint != built.get("fingerprint") or bool(quick) or "interpreter" in drift
    return {
        "fingerprint": fingerprint,
        "packages": len(now),
        "drift": drift,
        "intact": not seen and not drift["edited"],
        "hidden": not seen and bool(drift["edited"]),
    }


def describe(drift: Mapping[str, list[str]], limit: int = 10) -> str:
    """Tell the drift on one line, or on a few."""
    parts = []
    for kind, names in drift.items():
        if names:
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            parts.append(f"{kind}: {', '.join(names[:limit])}{more}")
    return "; ".join(parts)


def refusal(current: Path, wanted: Path, python: str) -> str:
    """Why the components must not start with the release that ``current`` points at; empty if they may.

    :param current: link to the release.
    :param wanted: file with the name of the release that the cluster runs.
    :param python: version of the interpreter that runs this.
    """
    release = current.resolve()
    built = manifest(release)
    name = wanted.read_text().strip()
    if release.name != name:
        return f"{current} points at the release {release.name}; the cluster runs {name}"
    if built and built.get("python") != python:
        return f"the release {name} was built for Python {built.get('python')}; this host has {python} now"
    state = inspect(release, python)
    if state["intact"]:
        return ""
    drift = state["drift"]
    told = describe(drift) if isinstance(drift, dict) else ""
    return f"the packages in {release} are not those of the lock: {told or 'its release.json was changed'}"


def gate(arguments: list[str], execute: Callable[[str, list[str]], object] = os.execv) -> int:
    """Become the command if the environment is the cluster's; else say what differs.

    :param arguments: CURRENT, WANTED and the command.
    :returns: the exit status, when it does not become the command.
    """
    current, wanted, *command = arguments
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        reason = refusal(Path(current), Path(wanted), python)
        if not reason:
            execute(command[0], command)
    # Whatever it is, another start would meet it again.
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
    print(
        f"{' '.join([Path(command[0]).name, *command[1:3]])} is not started: {reason}.\n"
        "To mend it, run on the control node: ansible-playbook -i INVENTORY site.yml  (or dataops.airflow.site)",
        file=sys.stderr,
    )
    return REFUSED


if __name__ == "__main__":
    sys.exit(gate(sys.argv[1:]))
