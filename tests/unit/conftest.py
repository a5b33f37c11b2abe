"""Makes `ansible_collections.dataops.airflow` importable from this checkout."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ansible.utils.collection_loader import _collection_finder

CHECKOUT = Path(__file__).resolve().parents[2]
COLLECTIONS = CHECKOUT / ".ansible" / "collections"

_link = COLLECTIONS / "ansible_collections" / "dataops" / "airflow"
_link.parent.mkdir(parents=True, exist_ok=True)
if not _link.is_symlink():
    with contextlib.suppress(FileExistsError):  # another test process was faster
        _link.symlink_to(CHECKOUT, target_is_directory=True)
_collection_finder._AnsibleCollectionFinder(paths=[str(COLLECTIONS)])._install()
