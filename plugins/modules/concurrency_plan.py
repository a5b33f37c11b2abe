# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: concurrency_plan
short_description: Tell how many tasks an inventory runs at once, what bounds them, and what that costs
version_added: 0.1.0
description:
  - Adds up the slots of each queue, names the lowest limit for all DAGs together and for one DAG run, estimates the
    memory that each host needs when all its slots are taken, and shows the connections to PostgreSQL.
  - Runs on the control node, connects to no host, changes nothing.
options:
  executor:
    description: Airflow's C([core] executor).
    type: str
    required: true
  celery:
    description: Whether tasks run on Celery workers.
    type: bool
    required: true
  local:
    description:
      - Tasks that each scheduler runs itself, with LocalExecutor. With O(celery), what C(parallelism) leaves beside
        the workers' share; 0 without it.
    type: int
    required: true
  schedulers:
    description: Number of schedulers; each has the C(parallelism) of O(config).
    type: int
    required: true
  config:
    description:
      - C(parallelism), C(max_active_tasks_per_dag), C(max_active_runs_per_dag) and C(default_pool_task_slot_count) of
        Airflow's section C(core).
    type: dict
    required: true
  workers:
    description:
      - C(name), C(host), C(concurrency), C(queues), C(autoscale) and C(memory_max) of each worker; the last two may be
        missing or empty.
    type: list
    elements: dict
    required: true
  hosts:
    description: C(name), C(components) and C(memory), in MB or null where it is not known, of each host.
    type: list
    elements: dict
    required: true
  api_workers:
    description: Processes of each API server.
    type: int
    required: true
  task_memory:
    description: MB that one running task takes.
    type: int
    required: true
  connections:
    description: C(needed) and C(available) connections to PostgreSQL, or null where it is not known; empty with SQLite.
    type: dict
    required: true
  before:
    description: Another plan; what differs from it is told as what one more worker changes.
    type: dict
attributes:
  check_mode:
    description: Can run in check mode and does the same there.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Plan a cluster of two workers
  dataops.airflow.concurrency_plan:
    executor: CeleryExecutor
    celery: true
    local: 0
    schedulers: 1
    config:
      parallelism: 32
      max_active_tasks_per_dag: 16
      max_active_runs_per_dag: 16
      default_pool_task_slot_count: 128
    workers:
      - {name: worker1, host: worker1, concurrency: 16, queues: [default, worker1]}
      - {name: worker2, host: worker2, concurrency: 16, queues: [default, worker2]}
    hosts:
      - {name: worker1, components: [worker], memory: 4096}
    api_workers: 1
    task_memory: 100
    connections: {needed: 120, available: 200}
"""

RETURN = r"""
plan:
  description:
    - C(queues), each with its C(workers) and C(slots); C(limits), each with C(name), C(tasks) and C(raise_with); of
      these the lowest for the whole C(cluster) and for one C(dag); C(memory) of each host, C(needed) and C(available)
      in MB, and C(memory_max), the same for each worker that has a limit; C(connections).
    - With O(before), C(one_more_worker) of that plan, with C(tasks), C(parallelism), C(connections) and the slots of
      C(queues) before and after, the C(memory) in MB that its host needs, and C(restarts).
  type: dict
  returned: always
table:
  description: The same as text.
  type: str
  returned: always
"""
