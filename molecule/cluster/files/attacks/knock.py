"""Knocks at what listens, with the standard library: prints a JSON list of what each said.

Reads a JSON list of [kind, ...]: ["postgresql", host, port, database, user, password], ["redis", host, port, line, ...]
and ["http", method, url, headers, body].
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import urllib.error
import urllib.request
from typing import Any


def postgresql(host: str, port: int, database: str, user: str, password: str) -> str:
    """What the server says, up to its question for a password; with psycopg2, to the end."""
    try:
        import psycopg2
    except ImportError:
        with socket.create_connection((host, port), timeout=5) as connection:
            words = b"".join(text.encode() + b"\0" for text in ("user", user, "database", database, ""))
            connection.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
            return connection.recv(4096).decode(errors="replace").replace("\0", " ")
    try:
        psycopg2.connect(host=host, port=port, dbname=database, user=user, password=password, connect_timeout=5).close()
    except psycopg2.OperationalError as refusal:
        return str(refusal)
    return "connected"


def redis(host: str, port: int, *lines: str) -> str:
    """The answers to some lines."""
    with socket.create_connection((host, port), timeout=5) as connection:
        answers = []
        for line in lines:
            words = line.split("\t")
            sent = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            connection.sendall(sent.encode())
            answers.append(connection.recv(4096).decode(errors="replace").strip())
        return " ".join(answers)


def http(method: str, url: str, headers: dict[str, str], body: Any = None) -> int:
    """Status of the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Take the answer as it is."""


def main() -> None:
    """Knock at each."""
    said: list[Any] = []
    for kind, *arguments in json.load(sys.stdin):
        try:
            said.append({"postgresql": postgresql, "redis": redis, "http": http}[kind](*arguments))
        except OSError as problem:
            said.append(f"{type(problem).__name__} {problem}")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
