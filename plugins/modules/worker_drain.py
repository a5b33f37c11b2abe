#!/usr/bin/python
# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Lets a Celery worker finish what it has, or take tasks again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_drain
short_description: Let a Celery worker finish what it has, or take tasks again
version_added: 0.1.0
description:
  - Tells workers, through the broker, to consume from no queue, and waits until they have no task left. The workers
    themselves run on, and serve their logs. Or tells them to consume from queues again.
  - A task counts whether it runs, waits in the worker for a free slot, or is kept there for a later time.
  - A broker that is away for a while does not end the wait.
notes:
  - A worker that was drained forgets its queues when it loses its connection to the broker, also after
    O(state=consuming). Restart it as soon as that disturbs nobody.
options:
  workers:
    description: Celery's names of the workers, such as C(celery@worker1). All of them are told at once.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(drained) consumes from no queue and has no task.
      - V(consuming) consumes at least from O(queues).
    type: str
    choices: [drained, consuming]
    required: true
  queues:
    description: Queues to consume from; for V(consuming).
    type: list
    elements: str
    default: []
  wait:
    description: Whether V(drained) waits for the tasks, or only stops consuming.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for the state. 0 waits for ever.
    type: int
    default: 0
  abandon:
    description:
      - Give up when one of these files is there, which the workers write when they start. Only for O(state=drained).
    type: list
    elements: path
    default: []
  patience:
    description: Seconds for which the worker, or the broker, may be silent before the worker counts as gone.
    type: int
    default: 30
  gone:
    description:
      - Whether a worker that is gone is an error. V(accept) reports it as RV(gone).
      - What it was doing cannot be known then.
    type: str
    choices: [fail, accept]
    default: fail
  broker_url:
    description: Celery's broker.
    type: str
    required: true
  python:
    description: Interpreter that can import Celery.
    type: path
    default: /opt/airflow/current/bin/python
attributes:
  check_mode:
    description: Looks once, tells what would be done, and does not wait.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Take no new tasks, and finish the running ones within an hour
  dataops.airflow.worker_drain:
    workers: [celery@worker1]
    state: drained
    timeout: 3600
    broker_url: "{{ cluster_broker_url }}"

- name: Take tasks again
  dataops.airflow.worker_drain:
    workers: [celery@worker1]
    state: consuming
    queues: [default, worker1]
    timeout: 60
    broker_url: "{{ cluster_broker_url }}"
"""

RETURN = r"""
queues:
  description: Queues that the workers consumed from before.
  type: list
  elements: str
  returned: always
running:
  description:
    - The tasks that the workers had when they were last asked. Empty after a wait that succeeded.
    - C(id) is Celery's; C(dag_id), C(run_id), C(task_id) and C(map_index) are Airflow's, as far as known.
  type: list
  elements: dict
  returned: always
finished:
  description: Celery's names of the tasks that the workers had at first and finished.
  type: list
  elements: str
  returned: always
gone:
  description: Whether one of the workers did not answer.
  type: bool
  returned: always
late:
  description: Whether O(timeout) was all that was wrong; another call goes on where this one gave up.
  type: bool
  returned: always
waited:
  description: Seconds until the state was reached or given up.
  type: float
  returned: always
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.dataops.airflow.plugins.module_utils.celery_worker import BrokerError, Look, talk

Talk = Callable[..., Look | None]

# Celery is imported anew for each look: a long wait looks rarely.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 5.0
# A message may be on its way while the queue is left: only the second look in a row tells that there is none.
QUIET_LOOKS = 2


class DrainError(Exception):
    """The state was not reached."""


class LateError(DrainError):
    """The state was not reached in time."""


class GoneError(DrainError):
    """The worker does not answer."""


def title(task: dict[str, Any]) -> str:
    """A task as a person names it."""
    if not task.get("dag_id"):
        return f"Celery's {task['id']}"
    index = task.get("map_index")
    mapped = f"[{index}]" if index is not None and index >= 0 else ""
    return f"{task['dag_id']}.{task['task_id']}{mapped} of {task['run_id']}"


class Worker:
    """One worker, what was learned of it, and how long it has been silent.

    :param name: Celery's.
    :param talk: tells and asks; takes ``cancel`` and ``add``.
    :param patience: seconds for which it may be silent.
    """

    def __init__(self, name: str, talk: Talk, patience: float) -> None:
        self.name = name
        self.talk = talk
        self.patience = patience
        self.first: Look | None = None
        self.last: Look | None = None
        self.trouble = ""
        self.gone = False
        self.late = False

    def look(self, cancel: Sequence[str] = (), add: Sequence[str] = ()) -> Look:
        """Tell and ask until it answers.

        :raises GoneError: when it has been silent for too long.
        """
        silent_since = time.monotonic()
        while True:
            try:
                found = self.talk(cancel=cancel, add=add)
                trouble = "it does not answer"
            except BrokerError as problem:
                found, trouble = None, f"the broker cannot be asked: {problem}"
            if found is not None:
                self.first = self.first or found
                self.last = found
                return found
            if time.monotonic() - silent_since >= self.patience:
                raise GoneError(trouble)
            time.sleep(FIRST_PAUSE)

    def drain(self, deadline: float | None, wait: bool, abandon: Sequence[Path] = ()) -> None:
        """Stop it from consuming, and wait until it has no task.

        :param deadline: of ``time.monotonic``; None waits for ever.
        :param abandon: files; one that appears tells that a worker was started anew, to work.
        :raises DrainError: when it has tasks, or consumes, at the deadline, or when it was started anew.
        """
        found, quiet, pause = self.look(), 0, FIRST_PAUSE
        while True:
            if any(path.exists() for path in abandon):
                raise DrainError("was started anew by another run meanwhile")
            if found.queues:
                # Also later: a worker that was started anew consumes from all its queues.
                found, quiet = self.look(cancel=found.queues), 0
            elif not wait:
                return
            else:
                quiet = 0 if found.tasks else quiet + 1
                if quiet >= QUIET_LOOKS:
                    return
            if deadline is not None and time.monotonic() >= deadline:
                if found.tasks:
                    raise LateError(f"still has {', '.join(map(title, found.tasks))}")
                if found.queues:
                    raise LateError(f"still consumes from {', '.join(found.queues)}")
            left = pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic()))
            pause = min(LONGEST_PAUSE, pause * 1.5) if found.tasks else FIRST_PAUSE
            time.sleep(left or 0.1)
            found = self.look()

    def consume(self, queues: Sequence[str], deadline: float | None) -> None:
        """Let it consume from these queues.

        :raises DrainError: when it does not at the deadline.
        """
        found = self.look()
        while missing := [queue for queue in queues if queue not in found.queues]:
            if deadline is not None and time.monotonic() >= deadline:
                raise LateError(f"does not consume from {', '.join(missing)}")
            self.look(add=missing)
            time.sleep(0.5)
            found = self.look()


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "workers": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "consuming"], "required": True},
            "queues": {"type": "list", "elements": "str", "default": []},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 0},
            "patience": {"type": "int", "default": 30},
            "abandon": {"type": "list", "elements": "path", "default": []},
            "gone": {"type": "str", "choices": ["fail", "accept"], "default": "fail"},
            "broker_url": {"type": "str", "required": True, "no_log": True},
            "python": {"type": "path", "default": "/opt/airflow/current/bin/python"},
        },
        supports_check_mode=True,
    )
    option = module.params
    if option["timeout"] < 0 or option["patience"] < 0:
        module.fail_json(msg="timeout and patience are seconds, 0 or more")

    def asker(name: str) -> Talk:
        def ask(cancel: Sequence[str] = (), add: Sequence[str] = ()) -> Look | None:
            return talk(option["python"], option["broker_url"], name, cancel=cancel, add=add)

        return ask

    start = time.monotonic()
    deadline = start + option["timeout"] if option["timeout"] else None
    drained = option["state"] == "drained"

    def act(worker: Worker) -> None:
        try:
            if module.check_mode:
                worker.look()
            elif drained:
                worker.drain(deadline, option["wait"], [Path(path) for path in option["abandon"]])
            else:
                worker.consume(option["queues"], deadline)
        except GoneError as problem:
            worker.trouble, worker.gone = f"is gone: {problem}", True
        except DrainError as problem:
            worker.trouble, worker.late = str(problem), isinstance(problem, LateError)

    workers = [Worker(name, asker(name), option["patience"]) for name in option["workers"]]
    with ThreadPoolExecutor(max_workers=max(1, len(workers))) as pool:
        list(pool.map(act, workers))
    answer: dict[str, Any] = {
        "changed": False,
        "queues": [],
        "running": [],
        "finished": [],
        "gone": any(worker.gone for worker in workers),
        "late": False,
        "waited": round(time.monotonic() - start, 1),
    }
    for worker in workers:
        before = worker.first or Look([], [])
        after = worker.last or before
        there = {task["id"] for task in after.tasks}
        answer["queues"] += [queue for queue in before.queues if queue not in answer["queues"]]
        answer["running"] += after.tasks
        if not worker.gone:
            answer["finished"] += [title(task) for task in before.tasks if task["id"] not in there]
        if worker.first is not None:
            answer["changed"] |= bool(before.queues if drained else set(option["queues"]) - set(before.queues))
    troubled = [worker for worker in workers if worker.trouble and not (worker.gone and option["gone"] == "accept")]
    troubles = [f"The worker {worker.name} {worker.trouble} after {answer['waited']} s." for worker in troubled]
    if troubles:
        answer["late"] = all(worker.late for worker in troubled)
        module.fail_json(msg=" ".join(troubles), **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
