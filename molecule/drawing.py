"""The collection's own time lines, for what tests saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.utils.collection_loader import _collection_finder
from conftest import TOP

_collection_finder._AnsibleCollectionFinder(paths=[str(TOP / ".ansible" / "collections")])._install()

from ansible_collections.dataops.airflow.plugins.module_utils.timeline import page, picture, times, usage  # noqa: E402

DRAWN = TOP / ".cache" / "concurrency"


def draw(name: str, title: str, tasks: Sequence[Mapping[str, Any]], slots: Mapping[str, int]) -> Path:
    """Write a report of an experiment, and its picture.

    :param tasks: as :func:`times` returns them.
    """
    DRAWN.mkdir(parents=True, exist_ok=True)
    (DRAWN / f"{name}.html").write_text(page(title, f"{len(tasks)} tasks", tasks, slots))
    (DRAWN / f"{name}.svg").write_text(picture(title, tasks, slots))
    return DRAWN / f"{name}.html"


__all__ = ["draw", "times", "usage"]
