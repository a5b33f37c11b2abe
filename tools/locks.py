#!/usr/bin/env python3
"""Write the locks that ship with the collection: `make locks`.

Version and extras are those of roles/airflow/defaults/main.yml; versions that a lock has already are kept.

usage: tools/locks.py                   keep the versions that are there
       tools/locks.py --upgrade         the newest packages before the cut-off
       tools/locks.py --header          write the header again, and no pin
       tools/locks.py --compare FILE    show the versions in which another lock differs; write nothing
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from ansible.utils.collection_loader import _collection_finder

ROOT = Path(__file__).resolve().parents[1]
# `make setup` links the checkout there.
_collection_finder._AnsibleCollectionFinder(paths=[str(ROOT / ".ansible" / "collections")])._install()

from ansible_collections.dataops.airflow.plugins.action import lock  # noqa: E402
from ansible_collections.dataops.airflow.plugins.module_utils import lock_file  # noqa: E402

ROLE = ROOT / "roles" / "airflow"
LOCKS = ROLE / "files" / "locks"
# The day after the release of Airflow 3.3.2: its packages ran together then.
CUT_OFF = "2026-09-18"


def main(arguments: list[str]) -> int:
    """Write the lock of the default version with the default extras; return the exit code."""
    compare = arguments[:1] == ["--compare"] and len(arguments) == 2
    if not compare and arguments not in ([], ["--upgrade"], ["--header"]):
        print(__doc__, file=sys.stderr)
        return 2
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    version = defaults["airflow_version"]
    path = LOCKS / f"airflow-{version}.txt"
    wanted = lock.Wanted(
        version=version,
        extras=defaults["airflow_extras"],
        constraints=[str(ROLE / "files" / "constraints" / path.name)],
        cutoff=CUT_OFF,
        python=defaults["airflow_lock_python"],
        upgrade=arguments == ["--upgrade"],
    )
    stored = lock.read(path)
    if compare:
        other = lock_file.parse(Path(arguments[1]).read_text())
        print("\n".join(lock_file.changes(stored.lock, other)) or "no version differs")
        return 0
    if arguments == ["--header"]:
        pins = stored.lock.pins
    else:
        environment = lock.environment_here("")
        uv = lock.Uv(lock.find_uv((LOCKS / "uv.txt").read_text(), ROOT / ".cache" / "uv", environment), environment)
        pins = lock.resolve(uv, wanted, lock_file.write_pins(stored.lock.pins) if stored.lock else "")
        _, reasons = lock.served(uv, pins, wanted)
        if reasons:
            print(reasons, file=sys.stderr)
            return 1
    lock.write(path, lock_file.render(wanted.header, lock_file.write_pins(pins)))
    for line in lock_file.changes(stored.lock, lock_file.Lock({}, pins)):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
