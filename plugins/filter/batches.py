# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Filter that decides which workers are restarted together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def worker_batches(hosts: Sequence[str], size: int, workers: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Part hosts of workers into batches, in their order, so that no queue loses all of its workers at once.

    A host that would be the last one of a queue outside a batch is put off to a later batch. A queue that only one host
    serves, such as the one of its name, has to wait for it.

    :param hosts: names of the hosts whose workers are to be restarted.
    :param size: how many a batch may hold, at least 1.
    :param workers: every worker of the cluster, as ``{"host": ..., "queues": [...]}``.
    :returns: the batches; together they hold each host once.
    """
    queues: dict[str, set[str]] = {}
    for worker in workers:
        queues.setdefault(str(worker["host"]), set()).update(worker["queues"])
    servers: dict[str, set[str]] = {}
    for name, served in queues.items():
        for queue in served:
            servers.setdefault(queue, set()).add(name)
    left, batches = list(hosts), []
    while left:
        batch: list[str] = []
        for host in left:
            together = {*batch, host}
            ends = [queue for queue in queues[host] if len(servers[queue]) > 1 and servers[queue] <= together]
            if len(batch) < size and not ends:
                batch.append(host)
        batches.append(batch)
        left = [host for host in left if host not in batch]
    return batches


class FilterModule:
    """Filters of this collection for restarts."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions."""
        return {"worker_batches": worker_batches}
