"""Has a worker take what it has slots for, and no more, also after it was killed or lost the broker.

A worker whose connection breaks forgets what it runs and what it took: it would take a task for each slot once more,
and what it took and had not begun would stay behind. Celery's own remedy, a lower count of tasks to take, lasts until
as many new tasks have ended, with slots that stand idle meanwhile. So a worker counts, whenever it begins to consume,
what it runs; ``worker_disable_prefetch`` has it take no task beyond its slots. It forgets as well which processes of
its pool are busy: a task would wait in a busy one, beside an idle one. So it marks them.

Redis keeps a message for the worker that took it until the visibility timeout, a day and more, and Airflow sends a task
again that is queued for ten minutes. So a worker writes down, in Redis, what it takes, and whenever it begins to
consume, it puts what it does not run back into its queues. Of a task that runs, whether here or elsewhere, the API
refuses a second start, and Airflow ignores the message; one that was finished has none any more.

Celery imports this module by its name, which ``imports`` of ``[celery] extra_celery_config`` gives.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.bootsteps import StartStopStep
from celery.concurrency.asynpool import AsynPool
from celery.signals import task_received, worker_init
from celery.worker.state import active_requests, reserved_requests

KEEP = 600
"""Seconds after which Airflow sends a queued task again by itself."""

log = logging.getLogger(__name__)


def received_by(worker: str) -> str:
    """The key of what a worker received."""
    return f"dataops.airflow:received:{worker}"


def write_down(sender: Any, request: Any, **_: Any) -> None:
    """Celery's handler for each task that arrives, before a process of the pool has it."""
    message, key, now = request.message, received_by(sender.hostname), time.time()
    with message.channel.conn_or_acquire() as redis, redis.pipeline() as pipe:
        pipe.zremrangebyscore(key, 0, now - KEEP)
        pipe.zadd(key, {message.delivery_tag: now})
        pipe.expire(key, KEEP)
        pipe.execute()


class Resume(StartStopStep):  # type: ignore[misc]  # Celery has no types.
    """Celery's step before a worker consumes, at its start and after each loss of its connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        """Count what runs and mark where, and put back what does not run.

        :param parent: the worker's consumer.
        """
        # Celery's count of taken slots, which a lost connection empties.
        reserved_requests.update(active_requests)
        # So it does with the busy processes. Other pools than "prefork" keep no such set.
        pool = parent.pool._pool
        if isinstance(pool, AsynPool):
            pool._busy_workers.update(job._write_to.inqW_fd for job in pool._cache.values() if job._write_to)
        channel, key = parent.task_consumer.channel, received_by(parent.hostname)
        running = {request.message.delivery_tag for request in active_requests}
        with channel.conn_or_acquire() as redis:
            tags = [tag.decode() if isinstance(tag, bytes) else tag for tag in redis.zrange(key, 0, -1)]
            left = [tag for tag in tags if tag not in running and redis.hexists(channel.unacked_key, tag)]
            for tag in left:
                channel.qos.restore_by_tag(tag, redis)
                redis.zrem(key, tag)
        if left:
            log.warning("%d tasks that this worker had taken and not begun are back in their queues", len(left))


def take_part(sender: Any, **_: Any) -> None:
    """Celery's handler for a worker that is about to be put together."""
    sender.app.steps["consumer"].add(Resume)


task_received.connect(write_down, weak=False)
worker_init.connect(take_part, weak=False)
