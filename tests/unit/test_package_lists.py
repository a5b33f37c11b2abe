"""apt's lists are fetched once in a run, and never taken for fresh where there are none."""

from __future__ import annotations

from typing import Any

import pytest
from expressions import evaluate


@pytest.mark.parametrize(
    ("probed", "installed", "young_enough"),
    [
        (True, {}, 3600),
        (False, {}, 0),
        (False, {"__firewall_install": {"changed": False, "skipped": True}}, 0),
        (False, {"__firewall_install": {"changed": True}}, 3600),
        (False, {"__firewall_install": {"changed": False}, "__postgresql_install": {"changed": True}}, 3600),
    ],
)
def test_lists_that_this_run_has_fetched_are_fresh(probed: bool, installed: dict[str, Any], young_enough: int) -> None:
    variables = {
        "inventory_hostname": "box",
        "hostvars": {"box": installed},
        "__cluster_probe": {"probe": {"package_lists": probed}},
    }
    assert evaluate("{{ cluster_host_cache_valid_time }}", ("cluster",), variables) == young_enough
