"""Takes up again what this worker had received when it was killed, and not begun.

Redis keeps a message for the worker that received it until the visibility timeout, a day and more, and Airflow sends a
task again that is queued for ten minutes. What died between its receipt and its start would wait for that. So a worker
writes down, in Redis, what it receives, and puts what is left of it back into its queues when it starts. Of a task that
runs, whether here or elsewhere, the API refuses a second start, and Airflow ignores the message; one that was finished
has none any more.

Celery imports this module by its name, which ``imports`` of ``[celery] extra_celery_config`` gives.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.signals import task_received, worker_ready

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


def put_back(sender: Any, **_: Any) -> None:
    """Celery's handler for a worker that begins to consume."""
    channel, key = sender.task_consumer.channel, received_by(sender.hostname)
    with channel.conn_or_acquire() as redis:
        tags = [tag.decode() if isinstance(tag, bytes) else tag for tag in redis.zrange(key, 0, -1)]
        left = [tag for tag in tags if redis.hexists(channel.unacked_key, tag)]
        for tag in left:
            channel.qos.restore_by_tag(tag, redis)
        redis.delete(key)
    if left:
        log.warning("%d tasks that this worker had when it was killed are back in their queues", len(left))


task_received.connect(write_down, weak=False)
worker_ready.connect(put_back, weak=False)
