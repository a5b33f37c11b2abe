# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Airflow's API, asked from a host of the cluster."""

from __future__ import annotations

import datetime
import functools
import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

LOGIN = "/auth/token"
LOGIN_OPTIONS: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "ca_path": {"type": "path", "default": ""},
    "username": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
}
"""Arguments of every module that logs in; the documentation fragment `api` tells of them."""


@functools.cache
def opener(ca_path: str = "") -> urllib.request.OpenerDirector:
    """What asks the hosts of a cluster: they speak to each other directly, whatever proxy the environment names.

    :param ca_path: PEM file with the only authorities that are trusted; empty for those that the host trusts.
    :raises OSError: when it cannot be read.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if ca_path:
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_path)))
    return urllib.request.build_opener(*handlers)


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
    :param ca_path: see :func:`opener`.
    """

    def __init__(self, url: str, timeout: float = 30, ca_path: str = "") -> None:
        self.url = url
        self.timeout = timeout
        self.ca_path = ca_path
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
            with opener(self.ca_path).open(request, timeout=self.timeout) as answer:
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
