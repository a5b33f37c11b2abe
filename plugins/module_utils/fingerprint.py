# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Fingerprint of a Python environment: what is installed in it, as one digest."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path


def distributions(site_packages: Path) -> dict[str, tuple[str, str]]:
    """List what is installed.

    :param site_packages: folder with the ``*.dist-info`` folders.
    :returns: ``{normalized name: (version, SHA-256 of RECORD with its lines sorted)}``. A distribution
        without a RECORD gets an empty digest.
    """
    found: dict[str, tuple[str, str]] = {}
    for info in sorted(site_packages.glob("*.dist-info")):
        name, _, version = info.name[: -len(".dist-info")].partition("-")
        record = info / "RECORD"
        lines = sorted(record.read_bytes().splitlines()) if record.is_file() else []
        digest = hashlib.sha256(b"\n".join(lines)).hexdigest() if lines else ""
        found[name.lower().replace("_", "-").replace(".", "-")] = (version, digest)
    return found


def fingerprint(site_packages: Path, python: str) -> str:
    """Digest over the interpreter's version, the platform and every distribution.

    :param site_packages: folder with the ``*.dist-info`` folders.
    :param python: the interpreter's version, such as ``3.11``.
    :returns: 64 hexadecimal digits; equal on two hosts if and only if what is installed is equal.
    """
    content = {
        "python": python,
        "platform": [platform.system(), platform.machine()],
        "distributions": distributions(site_packages),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
