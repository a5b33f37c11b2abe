# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: task_report
short_description: Draw tasks on time lines, as a page and as a picture
version_added: 0.1.0
description:
  - Writes a page that needs no other file, and beside it the picture alone as SVG. They show each task on the time line
    of its worker, how long it waited for its turn and for a worker, and how many slots were used when.
  - Runs on the control node, connects to no host. The Python of C(ansible-playbook) needs C(matplotlib).
options:
  path:
    description: The page, with the ending C(.html), in a folder that exists. The picture has the ending C(.svg).
    type: path
    required: true
  title:
    description: Title of the page and of the picture.
    type: str
    required: true
  text:
    description: Text to begin with.
    type: str
    default: ""
  tasks:
    description:
      - The tasks, as M(dataops.airflow.canary) returns them. Left out, nothing is written, and only what a report
        needs is required.
    type: list
    elements: dict
  slots:
    description: Tasks that each host may run at once.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Can run in check mode and writes nothing there.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author:
  - The dataops.airflow team
"""

EXAMPLES = r"""
- name: Draw the tasks of the canary
  dataops.airflow.task_report:
    path: /srv/reports/airflow.html
    title: The canary
    tasks: "{{ canary.tasks }}"
    slots: {worker1: 4, worker2: 4}
"""

RETURN = r"""
files:
  description: What was written.
  type: list
  elements: str
  returned: success
"""
