"""credentials: what is shown of a text in which a tool quoted an index's URL, or a part of it."""

from __future__ import annotations

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.credentials import scrub, secrets_in

INDEX = "https://robot:s3cr%40t%2F1@packages.example.org/feed@Local/simple?token=x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"no answer from {INDEX}", "no answer from https://packages.example.org/feed@Local/simple"),
        (
            "https://robot:s3cr%40t%2F1@packages.example.org/feed@Local/simple/celery/",
            "https://packages.example.org/feed@Local/simple/celery/",
        ),
        ("https://robot:s3cr@t/1@packages.example.org/", "https://packages.example.org/"),
        ("no login with s3cr%40t%2F1", "no login with ***"),
        ("no login with s3cr@t/1", "no login with ***"),
        ("login robot:s3cr@t/1 refused", "login *** refused"),
        ("nothing of robot", "nothing of robot"),
    ],
)
def test_every_spelling_is_hidden(text: str, shown: str) -> None:
    assert scrub(text, secrets_in([INDEX])) == shown


@pytest.mark.parametrize("login", ["t0ken", "t0ken:", ":t0ken"])
def test_a_token_alone(login: str) -> None:
    secrets = secrets_in([f"https://{login}@example.org/simple"])
    assert scrub(f"https://{login}@example.org/simple/x: 401 for t0ken", secrets) == (
        "https://example.org/simple/x: 401 for ***"
    )


@pytest.mark.parametrize(
    "url", ["", "/srv/limits.txt", "https://example.org/feed@Local/", "https://@example.org", "https://[x/"]
)
def test_what_has_no_credentials_is_shown(url: str) -> None:
    assert scrub(f"no answer from {url} (1)", secrets_in([url])).endswith(" (1)")
    assert "***" not in scrub(f"no answer from {url}", secrets_in([url]))


def test_the_longest_goes_first() -> None:
    """A password that starts like another one is not left with its end."""
    secrets = secrets_in(["https://a:abc@one/", "https://a:abcdef@two/"])
    assert scrub("abc, abcdef", secrets) == "***, ***"
