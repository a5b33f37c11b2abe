#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Brings the metadata database to the schema of a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: schema
short_description: Bring Airflow's metadata database to the schema of a release
version_added: 0.1.0
description:
  - Asks C(airflow db check-migrations), and runs C(airflow db migrate) where it finds something to do.
  - The check takes seconds. So the revisions that it found good are written down in the release folder, and as long
    as the database holds the same revisions it is not asked again; another release or a restored database is.
options:
  command:
    description: The C(airflow) command that loads the environment of this host.
    type: path
    required: true
  release:
    description: The release folder.
    type: path
    required: true
  compare:
    description: Only tell whether the database holds the revisions that were found good with O(release).
    type: bool
    default: false
  database_url:
    description: URL of the metadata database, as SQLAlchemy takes it.
    type: str
    required: true
attributes:
  check_mode:
    description: Checks, and does not migrate.
    support: full
  diff_mode:
    description: Shows the revisions before and after.
    support: full
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Migrate the database to the release's schema
  dataops.airflow.schema:
    command: /usr/local/bin/airflow
    release: /opt/airflow/current
    database_url: "{{ cluster_database_url }}"
"""

RETURN = r"""
fresh:
  description: Whether the database was empty before.
  type: bool
  returned: always
known:
  description: The revisions that were found good with O(release). Null where it was never used from this host.
  type: dict
  returned: with O(compare)
revisions:
  description: Alembic's revisions in the database by version table.
  type: dict
  returned: always
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

RECORD = "schema.json"
# Runs in the release, which has the driver. Every part of Airflow keeps its revision in a table of its own.
READ = """
import contextlib, json, os
url = os.environ['DATABASE_URL']
if url.startswith('sqlite:///'):
    import sqlite3
    path = url.removeprefix('sqlite:///')
    # Asking makes no file, which would be root's.
    place = f'file:{path}?mode=ro' if os.path.exists(path) else 'file::memory:'
    connection = sqlite3.connect(place, uri=True)
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'alembic_version*' ORDER BY 1"
else:
    import psycopg2
    connection = psycopg2.connect(url.replace('postgresql+psycopg2://', 'postgresql://', 1))
    tables = ("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'alembic\\\\_version%'"
              " AND table_schema = current_schema() ORDER BY 1")
with contextlib.closing(connection):
    cursor = connection.cursor()
    cursor.execute(tables)
    found = {}
    for (table,) in cursor.fetchall():
        cursor.execute(f'SELECT version_num FROM "{table}" ORDER BY 1')
        found[table] = [row[0] for row in cursor.fetchall()]
print(json.dumps(found))
"""


class SchemaError(Exception):
    """A command that failed, with what it said."""


def revisions(release: Path, database_url: str) -> dict[str, list[str]]:
    """Read the revisions that the database holds; none in a fresh one.

    :raises SchemaError: when the database cannot be asked.
    """
    done = subprocess.run(
        [f"{release}/bin/python", "-c", READ],
        env={**os.environ, "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise SchemaError(f"the metadata database cannot be asked: {said}")
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def known_good(release: Path) -> Any:
    """Revisions that were found good with this release; None when there were none."""
    try:
        return json.loads((release / RECORD).read_text())
    except (OSError, ValueError):
        return None


def airflow_db(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``airflow db``."""
    return subprocess.run([command, "db", *arguments], capture_output=True, text=True, check=False)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "path", "required": True},
            "release": {"type": "path", "required": True},
            "compare": {"type": "bool", "default": False},
            "database_url": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    command, release = module.params["command"], Path(module.params["release"])
    try:
        before = revisions(release, module.params["database_url"])
        known = known_good(release)
        if module.params["compare"]:
            module.exit_json(changed=False, fresh=not before, revisions=before, known=known)
        if before and before == known:
            module.exit_json(changed=False, fresh=False, revisions=before)
        # A new database has nothing to ask about.
        current = (
            bool(before) and airflow_db(command, "check-migrations", "--migration-wait-timeout", "1").returncode == 0
        )
        if not current and not module.check_mode:
            done = airflow_db(command, "migrate")
            if done.returncode:
                raise SchemaError(f"airflow db migrate failed ({done.returncode}): {done.stderr.strip()[-3000:]}")
        after = revisions(release, module.params["database_url"])
        if not module.check_mode:
            (release / RECORD).write_text(json.dumps(after) + "\n")
        diff = {"before": json.dumps(before) + "\n", "after": json.dumps(after) + "\n"}
        module.exit_json(changed=not current, fresh=not before, revisions=after, diff=diff)
    except (SchemaError, OSError) as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
