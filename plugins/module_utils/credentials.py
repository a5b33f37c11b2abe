# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Credentials in the URLs of indexes and constraints: what must not be shown of them, in whatever a tool prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

# Not urlsplit: what is no URL is no error here. An @ in the path, as some indexes have it, is none of a login.
URL = re.compile(r"([a-zA-Z][\w+.-]*://)([^/?#\s]*)@([^?#]*)")


def secrets_in(urls: Iterable[str]) -> dict[str, str]:
    """Return what must not be shown of some URLs, longest first, with what is shown instead.

    Each as it is written there, and as it is meant: a tool may decode it. Texts that are no URLs have no secrets.
    """
    found: dict[str, str] = {}
    for url in urls:
        parts = URL.match(url)
        if not parts:
            continue
        scheme, login, place = parts.groups()
        # A token may stand in place of the user.
        user, _, password = login.partition(":")
        for secret, shown in ((url, scheme + place), (f"{login}@", ""), (login, "***"), (password or user, "***")):
            for spelling in (secret, unquote(secret)):
                if spelling:
                    found.setdefault(spelling, shown)
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def scrub(text: str, secrets: Mapping[str, str]) -> str:
    """Return a text without secrets.

    :param secrets: see `secrets_in`.
    """
    for secret, shown in secrets.items():
        text = text.replace(secret, shown)
    return text
