# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Directives of systemd, as unit files and systemd-run take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def directive_lines(directives: Mapping[str, Any]) -> list[str]:
    """Write ``name=value``, one for each value of a list, and none for ``None``, in the order of the directives."""
    found = []
    for name, value in directives.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                found.append(f"{name}={str(item).lower() if isinstance(item, bool) else item}")
    return found
