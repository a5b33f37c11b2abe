"""worker_batches: who is restarted together."""

from __future__ import annotations

import pytest
from ansible_collections.dataops.airflow.plugins.filter.batches import worker_batches


def workers(**queues: str) -> list[dict[str, object]]:
    """A worker on each host; after a comma, the queues of another one on the same host."""
    return [
        {"host": host, "queues": [*served.split(), f"{host}{number or ''}"]}
        for host, all_served in queues.items()
        for number, served in enumerate(all_served.split(","))
    ]


@pytest.mark.parametrize(
    ("hosts", "size", "cluster", "expected"),
    [
        ("", 2, workers(a="x", b="x"), []),
        ("a b", 2, workers(a="x", b="x"), [["a"], ["b"]]),
        ("a b", 2, workers(a="x", b="x", c="x"), [["a", "b"]]),
        ("a b c d", 2, workers(a="x", b="x", c="y", d="y"), [["a", "c"], ["b", "d"]]),
        ("a b c d", 3, workers(a="x", b="x", c="y z", d="y"), [["a", "c"], ["b", "d"]]),
        ("a b", 2, workers(a="x", b="y"), [["a", "b"]]),
        ("b a", 1, workers(a="x", b="x"), [["b"], ["a"]]),
        ("a b", 2, workers(a="x,y", b="y", c="x"), [["a"], ["b"]]),
        ("a b", 2, workers(a="x,y", b="x", c="x"), [["a", "b"]]),
    ],
    ids=[
        "none",
        "both of one queue",
        "a third goes on",
        "two queues",
        "a queue of one worker",
        "each alone with its queue",
        "in their order",
        "a queue of a host's second worker",
        "a queue that no other host serves",
    ],
)
def test_batches(hosts: str, size: int, cluster: list[dict[str, object]], expected: list[list[str]]) -> None:
    assert worker_batches(hosts.split(), size, cluster) == expected
