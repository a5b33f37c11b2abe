# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""What a lock says: its pins, what they were made for, and whether they are what a site asks for.

Pure functions over the text of a lock, as `uv pip compile --generate-hashes` writes it, below a header of our own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

PYTHON_MINORS = (10, 13)
"""First and last minor version of Python 3 that locks are made for."""

MACHINES = ("x86_64", "aarch64")
"""Architectures for which a marker is tried."""

KEYS = ("airflow", "extras", "requirements", "python", "until", "platform", "cut-off", "wheels", "sha256")
"""The header's keys, in the order in which they are written."""

WHEELS = ".wheels"
"""Folder beside a lock for what was built. With the dot, Ansible does not read it as a part of the inventory."""

TITLE = "# Airflow's packages with their hashes, the same on every host. Made by a command: edits are refused."

HASH_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}

_HEADER = re.compile(rf"# ({'|'.join(KEYS)}): *(.*)")
_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*(?P<version>[^\s;]+)\s*"
    r"(?:;\s*(?P<marker>.*?))?(?P<hashes>(?:\s+--hash=\S+)*)\s*"
)


class LockError(Exception):
    """A lock that cannot be used, in words for its user."""


@dataclass(frozen=True)
class Pin:
    """One package of a lock.

    :param name: normalized, as in `apache-airflow`.
    :param version: the one version.
    :param marker: where it is installed; empty: everywhere.
    :param hashes: `algorithm:hex` of each file that may be installed.
    """

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n    ".join([head, *(f"--hash={digest}" for digest in self.hashes)])


@dataclass(frozen=True)
class Lock:
    """A parsed lock.

    :param header: what it was made for, by the names of `KEYS`; empty for a lock that has not got our header.
    :param pins: in the order of the file. A package has several where it differs between targets.
    """

    header: dict[str, str] = field(default_factory=dict)
    pins: list[Pin] = field(default_factory=list)

    @property
    def minors(self) -> range:
        """Minor versions of Python 3 that it serves, within `PYTHON_MINORS`."""
        first = minor_of(self.header.get("python", "")) or PYTHON_MINORS[0]
        last = minor_of(self.header.get("until", "")) or PYTHON_MINORS[1]
        return range(max(first, PYTHON_MINORS[0]), min(last, PYTHON_MINORS[1]) + 1)

    @property
    def requirements(self) -> list[str]:
        """The requirements that it was made from, beside Airflow itself."""
        return list(json.loads(self.header.get("requirements", "[]")))

    @property
    def extras(self) -> list[str]:
        """Airflow's extras that it was made with."""
        return _split(self.header.get("extras", ""))

    @property
    def wheels(self) -> list[str]:
        """File names of the wheels that were built for it."""
        return _split(self.header.get("wheels", ""))


# -- text ------------------------------------------------------------------------------------------------------------


def parse(text: str) -> Lock:
    """Return what the text of a lock says.

    :raises LockError: for a line that is not understood, a pin without a hash, and a text without any pin.
    """
    pins = [_pin(number, line) for number, line in _logical_lines(text)]
    if not pins:
        raise LockError("it pins no package")
    header = _header(text)
    if "airflow" not in header:
        return Lock({}, pins)
    try:
        requirements = json.loads(header.get("requirements", "[]"))
    except ValueError:
        requirements = None
    if not isinstance(requirements, list) or not all(isinstance(item, str) for item in requirements):
        raise LockError("its header's requirements are not a list of texts in JSON")
    return Lock(header, pins)


def render(header: Mapping[str, str], body: str) -> str:
    """Return the text of a lock: title, header, digest, pins. Empty values are left out.

    :param header: by the names of `KEYS`; a digest in it is replaced.
    :param body: the pins, as `write_pins` returns them.
    """
    lines = [f"# {key}: {header[key]}" for key in KEYS if header.get(key) and key != "sha256"]
    top = "\n".join([TITLE, *lines]) + "\n"
    return f"{top}# sha256: {digest_of(top + body)}\n{body}"


def write_pins(pins: Iterable[Pin]) -> str:
    """Return pins as uv writes them."""
    return "".join(f"{pin}\n" for pin in pins)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a lock without the line of its header that holds it."""
    return hashlib.sha256(re.sub(r"(?m)^# sha256: .*\n", "", text, count=1).encode()).hexdigest()


def edited_by_hand(text: str) -> bool:
    """Whether a lock with our title or header has another digest than that of its text, or none."""
    header = _header(text)
    ours = "airflow" in header or "sha256" in header or text.startswith(TITLE)
    return ours and header.get("sha256") != digest_of(text)


def changes(before: Lock | None, after: Lock) -> list[str]:
    """Return what differs in versions, sorted by name: `+ new 1.0`, `- gone 1.0`, `~ other 1.0 -> 1.1`."""
    old, new = _versions(before.pins if before else []), _versions(after.pins)
    lines = []
    for name in sorted({*old, *new}):
        if name not in old:
            lines.append(f"+ {name} {new[name]}")
        elif name not in new:
            lines.append(f"- {name} {old[name]}")
        elif old[name] != new[name]:
            lines.append(f"~ {name} {old[name]} -> {new[name]}")
    return lines


# -- targets ---------------------------------------------------------------------------------------------------------


def target_environment(python_full_version: str, machine: str) -> dict[str, str]:
    """Return the values that markers see in CPython on Linux.

    :param python_full_version: like 3.11.2.
    :param machine: like x86_64, as `uname -m` says.
    """
    return {
        "implementation_name": "cpython",
        "implementation_version": python_full_version,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": python_full_version,
        "python_version": ".".join(python_full_version.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }


def pins_for(lock: Lock, environment: Mapping[str, str]) -> list[Pin]:
    """Return the pins that are installed on a target.

    :param environment: see `target_environment`.
    """
    # Few markers are written many times, and parsing one takes longer than asking it.
    holds = {marker: _holds(marker, environment) for marker in {pin.marker for pin in lock.pins}}
    return [pin for pin in lock.pins if holds[pin.marker]]


def unfit_for(lock: Lock, python: str, machine: str) -> str:
    """Return why a lock is not for a host; empty if it is.

    :param python: the host's version, like 3.11.
    :param machine: the host's architecture, like x86_64; empty: unknown.
    """
    minor = minor_of(python)
    first, last = minor_of(lock.header.get("python", "")), minor_of(lock.header.get("until", ""))
    if minor and ((first and minor < first) or (last and minor > last)):
        return f"it is for Python 3.{first}" + ("" if first == last else f" to 3.{last}" if last else " and newer")
    platform = lock.header.get("platform", "")
    if platform and machine and platform != f"linux {machine}":
        return f"it is for {platform}"
    for wheel in lock.wheels:
        if minor and not wheel_fits(wheel, minor, machine):
            return f"it has a wheel that was built for another host: {wheel}"
    return ""


def lost_wheels(lock: Lock, files: Mapping[str, str]) -> list[str]:
    """Name the wheels that were built for a lock and are not there as they were built: no index has them.

    :param files: name -> SHA-256 of the files in the folder `WHEELS` beside the lock.
    """
    hashes = {known for pin in lock.pins for known in pin.hashes}
    return [
        f"{wheel} is missing" if wheel not in files else f"{wheel} has a hash that the lock does not have"
        for wheel in lock.wheels
        if f"sha256:{files.get(wheel)}" not in hashes
    ]


def wheel_fits(wheel: str, minor: int, machine: str) -> bool:
    """Whether a wheel can be installed in CPython 3.`minor` on Linux on such a machine (empty: any machine)."""
    try:
        tags = parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename:
        return False
    for tag in tags:
        stable = tag.abi == "abi3" and (minor_of(_dotted(tag.interpreter)) or 99) <= minor
        interpreter = tag.interpreter in (f"cp3{minor}", f"py3{minor}", "py3") or stable
        if interpreter and (tag.platform == "any" or not machine or tag.platform.endswith(f"_{machine}")):
            return True
    return False


def narrowed(header: Mapping[str, str], wheels: Sequence[str]) -> dict[str, str]:
    """Return a header that says what its wheels can be installed in: one Python, one platform, or what it said.

    :param wheels: file names of the wheels that were built for the lock.
    """
    result = dict(header)
    if not wheels:
        return result
    lock = Lock(result)
    minors = [minor for minor in lock.minors if all(wheel_fits(wheel, minor, "") for wheel in wheels)]
    if minors and minors != list(lock.minors):
        result.update(python=f"3.{minors[0]}")
        if minors[-1] != lock.minors[-1]:
            result.update(until=f"3.{minors[-1]}")
    platforms = {tag.platform for wheel in wheels for tag in parse_wheel_filename(wheel)[3]} - {"any"}
    machines = [machine for machine in MACHINES if any(name.endswith(f"_{machine}") for name in platforms)]
    if machines:
        result.update(platform=f"linux {machines[0]}")
    result.update(wheels=", ".join(sorted(wheels)))
    return result


# -- requirements ----------------------------------------------------------------------------------------------------


def malformed(requirements: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (requirement as written, what is wrong, what to do) for those that no lock can be made from."""
    wrong = []
    for text in requirements:
        try:
            requirement = _requirement(text)
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            wrong.append(
                (text, f"not a requirement: {reason}", 'write it like "boto3", "pandas>=2,<3" or "boto3[crt]"')
            )
            continue
        if requirement.url:
            # The address may hold credentials.
            wrong.append(
                (
                    text.partition("@")[0].strip(),
                    "a direct URL, for which no hash is known beforehand",
                    "put the package into a package index or into the wheelhouse, and name it with its version",
                )
            )
    return wrong


def unsatisfied(lock: Lock, version: str, extras: Sequence[str], requirements: Sequence[str]) -> list[tuple[str, str]]:
    """Return (requirement as written, what the lock has instead) for what a lock does not satisfy.

    What only the header tells is not checked in a lock without one.

    :param version: of Airflow.
    :param extras: Airflow's extras.
    :param requirements: beside Airflow; those that `malformed` names are left out.
    """
    targets = [
        (environment, _by_name(pins_for(lock, environment)))
        for minor in lock.minors
        for machine in MACHINES
        for environment in (target_environment(f"3.{minor}.{patch}", machine) for patch in (0, 99))
    ]
    missing = _unpinned(Requirement(f"apache-airflow=={version}"), targets)
    wrong = [(f"apache-airflow=={version}", missing)] if missing else []
    if lock.header:
        absent = sorted({canonicalize_name(extra) for extra in extras} - {canonicalize_name(e) for e in lock.extras})
        wrong += [(f"apache-airflow[{extra}]", f"locked with the extras {','.join(lock.extras)}") for extra in absent]
    bad = {text for text, _, _ in malformed(requirements)}
    for text in requirements:
        if text in bad or "@" in text.partition(";")[0]:
            continue
        requirement = _requirement(text)
        missing = _unpinned(requirement, targets) or _without_extras(requirement, lock)
        if missing:
            wrong.append((text, missing))
    return wrong


def minor_of(version: str) -> int:
    """Return 11 for 3.11 and for 3.11.2; 0 for anything else."""
    match = re.match(r"3\.(\d+)", version)
    return int(match[1]) if match else 0


# -- parts -----------------------------------------------------------------------------------------------------------


def _header(text: str) -> dict[str, str]:
    """The header's values; comments below the first line that is none are not looked at."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        match = _HEADER.fullmatch(line)
        if match:
            found[match[1]] = match[2].strip()
    return found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments and empty ones, those that end with a backslash joined, with their first's number."""
    start = 0
    parts: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        start = start if parts else number
        if line.endswith("\\"):
            parts.append(line.removesuffix("\\").strip())
            continue
        if line or parts:
            yield start, " ".join([*parts, line]).strip()
        parts = []
    if parts:
        yield start, " ".join(parts)


def _pin(number: int, line: str) -> Pin:
    if line.startswith("-"):
        # What follows an option may hold credentials.
        raise LockError(f"line {number} holds an option, {re.split('[ =]', line)[0]}; a lock consists of pins only")
    match = _PIN.fullmatch(line)
    if not match:
        raise LockError(f"line {number} is not a pin (name==version with hashes): {line[:60]}")
    try:
        Version(match["version"])
        marker = str(match["marker"] or "").strip()
        if marker:
            Marker(marker)
    except (InvalidVersion, InvalidMarker):
        raise LockError(f"line {number} has a malformed version or marker: {line.partition(' --hash')[0]}") from None
    hashes = tuple(match["hashes"].replace("--hash=", " ").split())
    if not hashes:
        raise LockError(f"line {number}: {match['name']}=={match['version']} is missing a hash")
    for digest in hashes:
        algorithm, _, value = digest.partition(":")
        if not re.fullmatch("[0-9a-f]+", value) or HASH_LENGTHS.get(algorithm) != len(value):
            raise LockError(f"line {number}: {match['name']}=={match['version']} has a malformed hash, {digest[:80]}")
    return Pin(str(canonicalize_name(match["name"])), match["version"], marker, hashes)


def _requirement(text: str) -> Requirement:
    if not isinstance(text, str) or len(text.splitlines()) != 1:
        raise InvalidRequirement("it is not one line of text")
    return Requirement(text)


def _holds(marker: str, environment: Mapping[str, str]) -> bool:
    return not marker or Marker(marker).evaluate(dict(environment))


def _by_name(pins: Iterable[Pin]) -> dict[str, list[Pin]]:
    found: dict[str, list[Pin]] = {}
    for pin in pins:
        found.setdefault(pin.name, []).append(pin)
    return found


def _unpinned(requirement: Requirement, targets: Sequence[tuple[dict[str, str], dict[str, list[Pin]]]]) -> str:
    """What a lock has instead of a requirement, on the first target where that does not fit; empty if it fits."""
    name = canonicalize_name(requirement.name)
    for environment, pins in targets:
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        versions = [pin.version for pin in pins.get(name, [])]
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            python = environment["python_version"]
            return f"{name} {' and '.join(versions)} for Python {python}" if versions else f"no {name}"
    return ""


def _without_extras(requirement: Requirement, lock: Lock) -> str:
    """Which extras of a requirement a lock was not made with; empty without any, or where no header tells."""
    if not lock.header or not requirement.extras:
        return ""
    name = canonicalize_name(requirement.name)
    had = {canonicalize_name(extra) for extra in (lock.extras if name == "apache-airflow" else ())}
    for text in lock.requirements:
        locked = _requirement(text)
        if canonicalize_name(locked.name) == name:
            had.update(canonicalize_name(extra) for extra in locked.extras)
    absent = sorted({canonicalize_name(extra) for extra in requirement.extras} - had)
    return f"{name}, locked without the extra {', '.join(absent)}" if absent else ""


def _versions(pins: Iterable[Pin]) -> dict[str, str]:
    """Name to versions; several are listed with slashes."""
    ordered = sorted(pins, key=lambda pin: (pin.name, Version(pin.version)))
    return {
        name: "/".join(dict.fromkeys(pin.version for pin in group))
        for name, group in groupby(ordered, key=lambda pin: pin.name)
    }


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _dotted(interpreter: str) -> str:
    """3.11 for cp311."""
    match = re.fullmatch(r"(?:cp|py)3(\d+)", interpreter)
    return f"3.{match[1]}" if match else ""
