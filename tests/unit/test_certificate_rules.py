"""certificate_rules: certificates that every client accepts, and each reason for which one would not."""

from __future__ import annotations

import pytest
from ansible_collections.dataops.airflow.plugins.module_utils.certificate_rules import (
    Flaw,
    authorities,
    covers,
    flaws,
)
from certificates import NOW, make

CA = make("authority", authority=True)
OTHER = make("another authority", authority=True)
SERVER = make("db", ("db.example.org", "10.0.0.1"), CA)
NAMES = ["10.0.0.1"]


def only(found: list[Flaw]) -> Flaw:
    assert len(found) == 1, found
    return found[0]


def test_a_good_certificate() -> None:
    assert flaws(SERVER.pem, SERVER.key_pem(), CA.pem, NAMES, NOW) == []
    assert flaws(SERVER.pem, SERVER.key_pem(), OTHER.pem + CA.pem, ["db.example.org", *NAMES], NOW) == []


def test_one_that_signed_itself() -> None:
    own = make("db", ("db",))
    assert flaws(own.pem, own.key_pem(), own.pem, ["db"], NOW) == []


@pytest.mark.parametrize(("days", "text"), [((-30, -1), "until"), ((1, 30), "valid from")])
def test_a_time_that_is_over_or_to_come(days: tuple[int, int], text: str) -> None:
    server = make("db", ("10.0.0.1",), CA, days)
    flaw = only(flaws(server.pem, server.key_pem(), CA.pem, NAMES, NOW))
    assert flaw.file == "certificate" and text in flaw.found and "valid now" in flaw.allowed


def test_other_names() -> None:
    flaw = only(flaws(SERVER.pem, SERVER.key_pem(), CA.pem, ["10.0.0.1", "10.0.0.2", "db"], NOW))
    assert flaw.found == "it is for db.example.org, 10.0.0.1, and not for 10.0.0.2, db"
    nameless = make("10.0.0.1", (), CA)
    assert "no name at all" in only(flaws(nameless.pem, nameless.key_pem(), CA.pem, NAMES, NOW)).found


@pytest.mark.parametrize(
    ("known", "name", "good"),
    [
        (["*.example.org"], "db.example.org", True),
        (["*.example.org"], "a.db.example.org", False),
        (["*.example.org"], "example.org", False),
        (["DB.example.org"], "db.Example.org.", True),
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.11", False),
        (["*"], "10.0.0.1", False),
    ],
)
def test_names(known: list[str], name: str, good: bool) -> None:
    assert covers(known, name) is good


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (OTHER.key_pem(), "the key of another certificate"),
        (SERVER.key_pem(b"passphrase"), "passphrase"),
        (b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n", "no key"),
        (b"", "no key"),
        (SERVER.pem, "no key"),
    ],
)
def test_keys_that_do_not_fit(key: bytes, text: str) -> None:
    flaw = only(flaws(SERVER.pem, key, CA.pem, NAMES, NOW))
    assert flaw.file == "key" and text in flaw.found


@pytest.mark.parametrize("text", [b"", b"nonsense", SERVER.key_pem()])
def test_no_certificate(text: bytes) -> None:
    assert only(flaws(text, SERVER.key_pem(), CA.pem, NAMES, NOW)).found == "no certificate"
    assert authorities(text) == []


def test_another_authority() -> None:
    flaw = only(flaws(SERVER.pem, SERVER.key_pem(), OTHER.pem, NAMES, NOW))
    assert flaw.file == "ca" and "CN=authority" in flaw.found


def test_an_authority_of_the_same_name() -> None:
    twin = make("authority", authority=True)
    assert only(flaws(SERVER.pem, SERVER.key_pem(), twin.pem, NAMES, NOW)).file == "ca"


def test_what_is_between() -> None:
    between = make("between", (), CA, authority=True)
    server = make("db", ("10.0.0.1",), between)
    assert flaws(server.pem + between.pem, server.key_pem(), CA.pem, NAMES, NOW) == []
    assert only(flaws(server.pem, server.key_pem(), CA.pem, NAMES, NOW)).file == "ca"
    over = make("between", (), CA, (-30, -1), authority=True)
    late = make("db", ("10.0.0.1",), over)
    assert only(flaws(late.pem + over.pem, late.key_pem(), CA.pem, NAMES, NOW)).file == "ca"
