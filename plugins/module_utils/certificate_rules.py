# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""What makes a certificate of the site's own fit for a host: pure functions over PEM texts, for the control node."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong with a file.

    :param file: ``ca``, ``certificate`` or ``key``.
    :param found: what is there.
    :param allowed: what may be there.
    :param remedy: what to do.
    """

    file: str
    found: str
    allowed: str
    remedy: str


def authorities(text: bytes) -> list[x509.Certificate]:
    """Certificates in a PEM text; none where it is not one."""
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        return []


def flaws(certificate: bytes, key: bytes, trusted: bytes, names: Iterable[str], now: datetime.datetime) -> list[Flaw]:
    """Return what is wrong with a server's certificate; nothing where every client will accept it.

    :param certificate: PEM text: the server's certificate, then those between it and its authority.
    :param key: PEM text.
    :param trusted: PEM text with the authorities that clients trust.
    :param names: host names and addresses by which clients connect.
    """
    chain = authorities(certificate)
    if not chain:
        return [
            Flaw(
                "certificate",
                "no certificate",
                "PEM text that begins with the certificate of this host",
                "name another file, or convert this one: openssl x509 -inform der -in FILE",
            )
        ]
    own = chain[0]
    found = []
    if not own.not_valid_before_utc <= now <= own.not_valid_after_utc:
        found.append(
            Flaw(
                "certificate",
                f"valid from {own.not_valid_before_utc:%Y-%m-%d} until {own.not_valid_after_utc:%Y-%m-%d}",
                "a certificate that is valid now",
                "have it renewed, and check the clock of this machine",
            )
        )
    known = names_of(own)
    missing = [name for name in names if not covers(known, name)]
    if missing:
        found.append(
            Flaw(
                "certificate",
                f"it is for {', '.join(known) or 'no name at all'}, and not for {', '.join(missing)}",
                "a certificate with every name by which clients connect as a subject alternative name",
                "have one made for these names, or set cluster_address to a name that it has",
            )
        )
    found += key_flaws(own, key)
    pool = authorities(trusted)
    if pool and not leads_to(own, chain[1:], pool, now):
        issuer = own.issuer.rfc4514_string()
        found.append(
            Flaw(
                "ca",
                f"no valid way from the certificate, issued by {issuer}, to an authority in it",
                "the authority of the certificate; what is between the two follows the certificate in its own file",
                "add the missing certificates to the two files",
            )
        )
    return found


def key_flaws(own: x509.Certificate, key: bytes) -> list[Flaw]:
    """Return what is wrong with the key of a certificate."""
    allowed = "the key of the certificate as PEM text, without a passphrase"
    try:
        public = load_pem_private_key(key, None).public_key()
    except TypeError:
        return [
            Flaw(
                "key",
                "a key with a passphrase, which no server could start with",
                allowed,
                "take the passphrase off: openssl pkey -in FILE; to keep it secret here, use ansible-vault encrypt",
            )
        ]
    except (ValueError, UnsupportedAlgorithm):
        return [Flaw("key", "no key", allowed, "name another file")]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != own.public_key().public_bytes(*form):
        return [
            Flaw("key", "the key of another certificate", allowed, "name the key that the certificate was made for")
        ]
    return []


def names_of(certificate: x509.Certificate) -> list[str]:
    """The subject alternative names of a certificate; its common name counts for no client."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [
        *extension.get_values_for_type(x509.DNSName),
        *map(str, extension.get_values_for_type(x509.IPAddress)),
    ]


def covers(known: Sequence[str], name: str) -> bool:
    """Whether one of the names of a certificate is meant by a name, as clients see it."""
    try:
        return str(ipaddress.ip_address(name)) in known
    except ValueError:
        plain = name.lower().rstrip(".")
        wildcard = f"*.{plain.partition('.')[2]}"
        return any(item.lower() in (plain, wildcard) for item in known)


def leads_to(
    own: x509.Certificate,
    between: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    now: datetime.datetime,
) -> bool:
    """Whether signatures lead from a certificate to a trusted one, all of them valid now."""
    current, left = own, list(between)
    while True:
        if any(issued(current, authority, now) for authority in trusted):
            return True
        following = next((item for item in left if issued(current, item, now)), None)
        if following is None:
            return False
        left.remove(following)
        current = following


def issued(certificate: x509.Certificate, issuer: x509.Certificate, now: datetime.datetime) -> bool:
    """Whether one certificate, valid now, signed another."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return issuer.not_valid_before_utc <= now <= issuer.not_valid_after_utc
