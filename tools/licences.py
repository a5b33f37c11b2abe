#!/usr/bin/env python3
"""List packages and licences: `make licences`.

usage: tools/licences.py LOCK     of a lock, whose packages are installed into .cache/licences
       tools/licences.py BILL     of a release, from the sbom.cdx.json in its folder on a host
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))

import sbom  # noqa: E402

FOLDER = ROOT / ".cache" / "licences"


def of_lock(lock: str) -> list[tuple[str, str, str]]:
    """Install the packages of a lock, and read what they say."""
    python = ("--python", str(FOLDER))
    subprocess.run(["uv", "venv", "--quiet", "--allow-existing", str(FOLDER)], check=True)
    subprocess.run(["uv", "pip", "sync", "--quiet", "--require-hashes", *python, lock], check=True)
    return list(sbom.packages(next(FOLDER.glob("lib/python*/site-packages"))))


def of_bill(bill: str) -> list[tuple[str, str, str]]:
    """Read a bill of materials."""
    found = []
    for component in json.loads(Path(bill).read_text())["components"]:
        names = [entry["license"]["name"] for entry in component.get("licenses", [])]
        found.append((component["name"], component["version"], ", ".join(names)))
    return found


def show(rows: Iterable[tuple[str, str, str]]) -> None:
    """Print a table."""
    table = [(name, version, words or "not told") for name, version, words in rows]
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    for name, version, words in table:
        print(f"{name:<{widths[0]}}  {version:<{widths[1]}}  {words}")


def main(arguments: list[str]) -> int:
    """Print the table of the one file; return the exit code."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    show(of_bill(arguments[0]) if arguments[0].endswith(".json") else of_lock(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
