# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Airflow's API, asked from a host of the cluster."""

from __future__ import annotations

import datetime
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

# The hosts of a cluster speak to each other directly, whatever proxy the environment names.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
LOGIN = "/auth/token"


class ApiError(Exception):
    """The API cannot be reached, refuses, or answers as Airflow's does not.

    :ivar status: HTTP status of a refusal; 0 where there is none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """The API server.

    :param url: its URL, without a path.
    :param timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, timeout: float = 30) -> None:
        self.url = url
        self.timeout = timeout
        self.token = ""

    def login(self, username: str, password: str) -> None:
        """Get the token with which all that follows is asked.

        :raises ApiError: also when the login is refused.
        """
        answer = self.ask("POST", LOGIN, {"username": username, "password": password})
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not token:
            raise ApiError(f"{self.url}{LOGIN} did not answer as Airflow's API does")
        self.token = token

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer; None where it is empty.

        :raises ApiError: when there is no such answer.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with DIRECT.open(request, timeout=self.timeout) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as refusal:
            message = f"{method} {path} answered {refusal.code}: {refusal.read()[:300]!r}"
            raise ApiError(message, refusal.code) from refusal
        except OSError as problem:
            raise ApiError(f"{self.url} cannot be reached: {problem}") from problem
        except (ValueError, http.client.HTTPException) as problem:
            raise ApiError(f"{self.url}{path} did not answer as Airflow's API does") from problem


def seconds(moment: str | None) -> float:
    """Seconds since the epoch of a time of the API; 0 where there is none."""
    return datetime.datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp() if moment else 0.0
