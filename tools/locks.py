#!/usr/bin/env python3
"""Write the locks that ship with the collection: `make locks`.

Version and extras are those of roles/airflow/defaults/main.yml.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

ROLE = Path(__file__).parents[1] / "roles" / "airflow"
LOCKS = ROLE / "files" / "locks"
# The newest packages of this day: celery 5.7, which is younger, breaks Airflow 3.3.2.
CUT_OFF = "2026-09-18"
OLDEST_PYTHON = "3.10"


def compile_lock(requirement: str, *options: str) -> str:
    """Resolve one requirement into hashed lines."""
    argv = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes", *options, "-"]
    return subprocess.run(argv, input=requirement, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write the lock of the default version with the default extras."""
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    version, extras = defaults["airflow_version"], ",".join(defaults["airflow_extras"])
    header = (
        f"# Airflow {version} and its packages for Python {OLDEST_PYTHON} and newer, with hashes: `make locks`.\n"
        f"# extras: {extras}\n"
        f"# cut-off: {CUT_OFF}\n"
    )
    options = ["--universal", "--python-version", OLDEST_PYTHON, "--exclude-newer", CUT_OFF]
    lock = compile_lock(f"apache-airflow[{extras}]=={version}\n", *options)
    (LOCKS / f"airflow-{version}.txt").write_text(header + lock)


if __name__ == "__main__":
    main()
