# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Asks through the broker which Celery workers answer."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

# Celery is in Airflow's interpreter, not in that of the module. The broker's URL holds a password: no argument.
PING = """
import json, os, sys
from celery import Celery
app = Celery(broker=os.environ['BROKER_URL'])
app.conf.broker_connection_retry = False
app.conf.broker_transport_options = {'socket_timeout': 5, 'socket_connect_timeout': 5}
print(json.dumps([name for answer in app.control.ping(**json.loads(sys.argv[1])) for name in answer]))
"""


class PingError(Exception):
    """The last line of what Celery complained about."""


def ping(python: str, broker_url: str, worker: str | None = None) -> list[str]:
    """Return Celery's names of the workers that answer a ping.

    :param python: interpreter that can import Celery.
    :param worker: ask only the one with this name, and do not wait for others.
    :raises PingError: when the broker cannot be asked.
    """
    options: dict[str, Any] = {"timeout": 2}
    if worker is not None:
        options = {"destination": [worker], "timeout": 3, "limit": 1}
    done = subprocess.run(
        [python, "-c", PING, json.dumps(options)],
        env={**os.environ, "BROKER_URL": broker_url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PingError((done.stderr.strip().splitlines() or ["no answer"])[-1])
    names: list[str] = json.loads(done.stdout)
    return names
