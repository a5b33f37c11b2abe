# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""Resolves the packages of a site on the control node; see plugins/modules/lock.py."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.dataops.airflow.plugins.module_utils import lock_file
from ansible_collections.dataops.airflow.plugins.module_utils.credentials import scrub, secrets_in
from ansible_collections.dataops.airflow.plugins.module_utils.installer import BuildError, bundle_of, install_uv
from ansible_collections.dataops.airflow.plugins.module_utils.problems import Problem, report
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    "path": {"type": "str", "required": True},
    "seed": {"type": "str", "default": ""},
    "version": {"type": "str", "required": True},
    "extras": {"type": "list", "elements": "str", "default": []},
    "requirements": {"type": "list", "elements": "str", "default": []},
    "constraints": {"type": "list", "elements": "str", "default": []},
    "cutoff": {"type": "str", "default": ""},
    "python": {"type": "str", "default": "3.10"},
    "upgrade": {"type": "raw", "default": False},
    "build": {"type": "list", "elements": "str", "default": []},
    "index_url": {"type": "str", "default": "", "no_log": True},
    "ca_certificates": {"type": "list", "elements": "str", "default": []},
    "uv": {"type": "str", "required": True},
    "tools": {"type": "str", "default": "~/.cache/dataops-airflow/uv"},
    "interpreter": {"type": "str", "default": "/usr/bin/python3"},
}

PLATFORM = "x86_64-manylinux_2_35"
"""What wheels are looked for: the C library of Ubuntu 22.04, the oldest of the systems that preflight admits."""

REACHING = re.compile(
    r"UV_((DEFAULT_|EXTRA_)?INDEX|FIND_LINKS|HTTP_|SYSTEM_CERTS|NATIVE_TLS|KEYRING|CACHE|OFFLINE|INSEC)"
)
"""Settings of the operator that say where packages are, not which ones are chosen."""

TITLE = "The packages cannot be locked. Nothing was changed."


class LockingError(Exception):
    """What an operator has to mend."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(report(TITLE, problems))


@dataclass(frozen=True)
class Wanted:
    """What a lock is made for; see the options of the module."""

    version: str
    extras: Sequence[str] = ()
    requirements: Sequence[str] = ()
    constraints: Sequence[str] = ()
    cutoff: str = ""
    python: str = "3.10"
    upgrade: bool | Sequence[str] = False
    build: Sequence[str] = ()

    @property
    def lines(self) -> list[str]:
        """Everything as requirements."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return [f"apache-airflow{extras}=={self.version}", *self.requirements]

    @property
    def options(self) -> list[str]:
        """How uv is to resolve them."""
        found = ["--universal", "--python-version", self.python, "--only-binary", ":all:"]
        for name in self.build:
            # The more specific option wins; without it the package's source would be refused like any other.
            found += ["--no-binary", name]
        for constraint in self.constraints:
            found += ["--constraints", constraint]
        if self.cutoff:
            found += ["--exclude-newer", self.cutoff]
        if self.upgrade is True:
            found += ["--upgrade"]
        elif self.upgrade:
            for name in self.upgrade:
                found += ["--upgrade-package", name]
        return found

    @property
    def header(self) -> dict[str, str]:
        """What the lock says about itself."""
        return {
            "airflow": self.version,
            "extras": ",".join(sorted(self.extras)),
            "requirements": json.dumps(list(self.requirements)),
            "python": self.python,
            "cut-off": self.cutoff,
        }


@dataclass(frozen=True)
class Uv:
    """The installer and how it reaches the index.

    :param secrets: texts that must not be shown, each with what is shown instead.
    """

    path: Path
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)

    def run(self, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run uv, away from any project's settings; what it prints has no secrets."""
        done = subprocess.run(
            [str(self.path), *arguments],
            cwd=folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        done.stderr = scrub(done.stderr, self.secrets).strip()
        return done


# -- uv --------------------------------------------------------------------------------------------------------------


def environment_here(index_url: str, bundle: str = "") -> dict[str, str]:
    """Environment of uv and pip on the control node: the operator's, less what changes the choice of versions.

    :param bundle: PEM file with all authorities to trust; empty: the operator's own.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UV_", "PYTHON", "VIRTUAL_ENV")) or REACHING.match(name)
    }
    kept.update({"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1", "PIP_NO_INPUT": "1"})
    if index_url:
        kept = {
            name: value for name, value in kept.items() if not re.match("UV_(EXTRA_)?INDEX|UV_FIND|PIP_.*IND", name)
        }
        kept.update({"UV_DEFAULT_INDEX": index_url, "PIP_INDEX_URL": index_url})
    if bundle:
        kept.update({"SSL_CERT_FILE": bundle, "PIP_CERT": bundle})
    return kept


def find_uv(requirement: str, tools: Path, environment: dict[str, str]) -> Path:
    """Return the pinned uv: the installed one if it has that version, else one that is fetched into a folder.

    :raises BuildError: it cannot be fetched.
    """
    pinned = re.search(r"^uv==([^\s;\\]+)", requirement, re.MULTILINE)
    beside = Path(sys.executable).with_name("uv")
    for candidate in (shutil.which("uv"), str(beside) if beside.is_file() else None):
        if candidate and pinned:
            done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
            if done.stdout.split()[1:2] == [pinned[1]]:
                return Path(candidate)
    return install_uv(tools, requirement, sys.executable, environment)


def resolve(uv: Uv, wanted: Wanted, preferred: str = "") -> list[lock_file.Pin]:
    """Return the pins that satisfy the requirements.

    :param preferred: pins, as text, whose versions are kept where that is possible.
    :raises LockingError: with uv's own words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "requirements.in").write_text("".join(f"{line}\n" for line in wanted.lines))
        (folder / "lock.txt").write_text(preferred)
        fixed = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"]
        fixed += ["--python", sys.executable, "--output-file", "lock.txt"]
        done = uv.run([*fixed, *wanted.options, "requirements.in"], folder)
        if done.returncode:
            raise LockingError(explain(done.stderr, wanted))
        try:
            return lock_file.parse((folder / "lock.txt").read_text()).pins
        except lock_file.LockError as error:
            raise LockingError(explain(f"uv wrote what no host could install: {error}", wanted)) from None


def explain(message: str, wanted: Wanted) -> Problem:
    """Return what uv says with what to do about it."""
    unreachable = r"Failed to fetch|error sending request|could not be queried|client error"
    building = re.search(r"Failed to (?:download and )?build `([^`]+)`", message)
    # What a build says of files is about the build; an index that is away stops one, too.
    if building and not re.search(unreachable, message):
        return Problem(
            f"build of {building[1]}",
            message,
            "packages whose requirements the control node can read: for those of airflow_build_packages it runs their "
            "build, as far as that is needed to learn what they require",
            "install on the control node what the build misses (a compiler, python3-dev, the headers or the program "
            "that it names); or choose a version that has a wheel, and take the package out of airflow_build_packages",
        )
    if re.search(f"{unreachable}|No such file", message):
        return Problem(
            "package index",
            message,
            "an index that answers, and constraints that can be read",
            "check the network, airflow_index_url with its credentials, cluster_ca_certificates and "
            "airflow_constraints; then run this again",
        )
    sources = sorted(set(re.findall(r"Wheels are required for `([^`]+)`", message)))
    if sources:
        return Problem(
            f"packages without a wheel: {', '.join(sources)}",
            message,
            "wheels only: nothing is compiled on the hosts",
            "choose a version that has a wheel; or have it built once, on one host: name it in airflow_build_packages, "
            f"in group_vars/all/airflow.yml:\nairflow_build_packages: [{', '.join(sources)}]",
        )
    limits = "".join(f"\n  {constraint}" for constraint in wanted.constraints if "://" not in constraint)
    return Problem(
        "requirements",
        message,
        f"requirements that fit Airflow {wanted.version}, each other, and the constraints",
        "change the one that uv names, in airflow_requirements, airflow_constraints or airflow_lock_cutoff"
        + (f"; the reasons of constraints are in:{limits}" if limits else ""),
    )


def served(uv: Uv, pins: Sequence[lock_file.Pin], wanted: Wanted) -> tuple[list[int], str]:
    """Return the minor versions of Python for which each package has a wheel, and why others are missing.

    uv's universal resolution is content with a wheel for any platform; the hosts are not.

    :raises LockingError: there is no such version.
    """
    names = {canonicalize_name(name) for name in wanted.build}
    body = lock_file.write_pins(pin for pin in pins if pin.name not in names)
    good: list[int] = []
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "lock.txt").write_text(body)
        fixed = ["pip", "install", "--dry-run", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        fixed += ["--python", sys.executable, "--target", "none", "--python-platform", PLATFORM]
        for minor in lock_file.Lock(wanted.header).minors:
            done = uv.run([*fixed, "--python-version", f"3.{minor}", "--requirements", "lock.txt"], folder)
            if done.returncode:
                reasons.append(f"Python 3.{minor}: {done.stderr}")
            elif not good or good[-1] == minor - 1:
                good.append(minor)
    if not good:
        raise LockingError(
            Problem(
                "wheels",
                reasons[0] if reasons else f"Python {wanted.python}",
                f"a wheel of every package for Linux on {PLATFORM.partition('-')[0]}, with Python {wanted.python} to "
                f"3.{lock_file.PYTHON_MINORS[1]}",
                "choose versions that have such wheels, or name the package in airflow_build_packages",
            )
        )
    return good, "\n".join(reasons)


# -- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A lock that is there.

    :param text: empty: there is none.
    :param lock: None: there is none, or it cannot be read as one.
    """

    text: str = ""
    lock: lock_file.Lock | None = None

    @property
    def trusted(self) -> bool:
        """Whether its hashes may be taken over."""
        return self.lock is not None and not lock_file.edited_by_hand(self.text)


def read(path: Path | None) -> Stored:
    """Return the lock at a path."""
    if path is None or not path.is_file():
        return Stored()
    text = path.read_text(encoding="utf-8")
    try:
        return Stored(text, lock_file.parse(text))
    except lock_file.LockError:
        return Stored(text)


def preferred(stored: Stored, seed: Stored, wanted: Wanted) -> list[lock_file.Pin]:
    """Return the pins to keep: the site's, and the seed's for packages that the site's does not have.

    A lock for another version of Airflow comes second. What is built from source is given without its hashes: those
    there are of the wheel, and the source's are wanted.
    """
    same = stored.lock is not None and stored.lock.header.get("airflow", wanted.version) == wanted.version
    order = (stored, seed) if same else (seed, stored)
    build = {canonicalize_name(name) for name in wanted.build}
    found: list[lock_file.Pin] = []
    for source in order:
        names = {pin.name for pin in found}
        built = {parse_wheel_filename(wheel)[0] for wheel in source.lock.wheels} if source.lock else set()
        for pin in source.lock.pins if source.lock else []:
            if pin.name not in names:
                bare = not source.trusted or pin.name in build or pin.name in built
                found.append(replace(pin, hashes=()) if bare else pin)
    return sorted(found, key=lambda pin: pin.name)


def kept_wheel(pin: lock_file.Pin, stored: Stored, wheels: Path) -> Path | None:
    """Return the wheel that was built for this very pin, if it is there with the hash that the lock has."""
    if not stored.trusted or stored.lock is None:
        return None
    before = [old for old in stored.lock.pins if (old.name, old.version) == (pin.name, pin.version)]
    for wheel in stored.lock.wheels:
        path = wheels / wheel
        if is_wheel_of(wheel, pin) and path.is_file() and any(digest_of(path) in old.hashes for old in before):
            return path
    return None


def is_wheel_of(file: str, pin: lock_file.Pin) -> bool:
    """Whether a file's name is that of a wheel of a package in its version."""
    try:
        name, version, *_ = parse_wheel_filename(file)
        return (name, version) == (pin.name, Version(pin.version))
    except (InvalidWheelFilename, InvalidVersion):
        return False


def digest_of(path: Path) -> str:
    """Return a file's hash as a lock writes it."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def write(path: Path, text: str) -> None:
    """Replace a file, or leave it as it is."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# -- the task --------------------------------------------------------------------------------------------------------


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    """Controller side of :mod:`dataops.airflow.lock`."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the lock.

        :returns: see RETURN of the module.
        :raises AnsibleActionFail: what cannot be locked, and why.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENT_SPEC)
        secrets = secrets_in([args["index_url"], *args["constraints"]])
        try:
            result.update(self._converge(args, secrets, task_vars or {}))
        except (LockingError, BuildError, OSError, UnicodeError) as error:
            raise AnsibleActionFail(scrub(str(error), secrets)) from None
        return result

    def _converge(self, args: dict[str, Any], secrets: Mapping[str, str], variables: dict[str, Any]) -> dict[str, Any]:
        wanted = self._wanted(args)
        path = Path(self._loader.path_dwim(args["path"]))
        if not path.parent.is_dir():
            raise LockingError(Problem("lock", f"no folder {path.parent}", "a folder that is there", "make it"))
        stored, seed = read(path), read(self._local(args["seed"]))
        with self._uv(args, secrets) as uv:
            pins = resolve(uv, wanted, lock_file.write_pins(preferred(stored, seed, wanted)))
            minors, reasons = served(uv, pins, wanted)
        header = {**wanted.header, "python": f"3.{minors[0]}"}
        if minors[-1] != lock_file.PYTHON_MINORS[1]:
            header["until"] = f"3.{minors[-1]}"
        if reasons:
            self._display.warning(f"The lock is for Python 3.{minors[0]} to 3.{minors[-1]} only.\n{reasons}")
        pins, wheels, built = self._wheels(args, wanted, pins, stored, path.parent / lock_file.WHEELS, variables)
        text = lock_file.render(lock_file.narrowed(header, wheels), lock_file.write_pins(pins))
        changed = text != stored.text or bool(built)
        if changed and not self._task.check_mode:
            write(path, text)
            self._forget(stored, wheels, path.parent / lock_file.WHEELS)
        lines = lock_file.changes(stored.lock or seed.lock, lock_file.Lock({}, pins))
        answer = {
            "changed": changed,
            "path": str(path),
            "changes": lines,
            "packages": len({pin.name for pin in pins}),
            "built": built,
        }
        if self._task.diff and changed:
            answer["diff"] = {"prepared": "".join(f"{line}\n" for line in lines) or "no version changes\n"}
        return answer

    def _wanted(self, args: dict[str, Any]) -> Wanted:
        problems = [
            Problem("airflow_requirements", f"{text}: {found}", "requirements by name and version (PEP 508)", remedy)
            for text, found, remedy in lock_file.malformed(args["requirements"])
        ]
        upgrade = args["upgrade"] = _upgrade(args["upgrade"])
        if not isinstance(upgrade, bool) and not (
            isinstance(upgrade, list) and all(isinstance(name, str) and _is_name(name) for name in upgrade)
        ):
            allowed = "true, false, or a list of names of packages"
            problems.append(Problem("airflow_lock_upgrade", "another value", allowed, "correct it"))
        for option, names in (("airflow_extras", args["extras"]), ("airflow_build_packages", args["build"])):
            wrong = [name for name in names if not _is_name(name)]
            if wrong:
                problems.append(Problem(option, ", ".join(wrong), "names, without a version", "correct it"))
        first, last = lock_file.PYTHON_MINORS
        if args["python"] not in [f"3.{minor}" for minor in range(first, last + 1)]:
            problems.append(Problem("airflow_lock_python", args["python"], f"3.{first} to 3.{last}", "correct it"))
        if problems:
            raise LockingError(*problems)
        constraints = [text if "://" in text else str(self._local(text)) for text in args["constraints"] if text]
        keys = ("version", "extras", "requirements", "cutoff", "python", "upgrade", "build")
        return Wanted(**{key: args[key] for key in keys}, constraints=constraints)

    def _local(self, path: str) -> Path | None:
        return Path(self._loader.path_dwim(path)) if path else None

    @contextlib.contextmanager
    def _uv(self, args: dict[str, Any], secrets: Mapping[str, str]) -> Iterator[Uv]:
        with tempfile.TemporaryDirectory() as scratch:
            bundle = bundle_of([str(self._local(file)) for file in args["ca_certificates"]], Path(scratch))
            environment = environment_here(args["index_url"], bundle)
            own = secrets_in(value for value in environment.values() if "://" in value)
            uv = find_uv(args["uv"], Path(args["tools"]).expanduser(), environment)
            yield Uv(uv, environment, {**secrets, **own})

    def _wheels(
        self,
        args: dict[str, Any],
        wanted: Wanted,
        pins: Sequence[lock_file.Pin],
        stored: Stored,
        folder: Path,
        variables: dict[str, Any],
    ) -> tuple[list[lock_file.Pin], list[str], list[str]]:
        """Return the pins with wheels' hashes in place of sources', the wheels, and the names of what was built."""
        names = {canonicalize_name(name) for name in wanted.build}
        done, wheels, built = [], [], []
        for pin in pins:
            if pin.name not in names:
                done.append(pin)
                continue
            wheel = kept_wheel(pin, stored, folder)
            if wheel is None:
                built.append(pin.name)
                wheel = self._build(args, pin, folder, variables)
            if wheel is None:  # check mode
                done.append(pin)
            else:
                wheels.append(wheel.name)
                done.append(replace(pin, hashes=(digest_of(wheel),)))
        return done, wheels, built

    def _build(self, args: dict[str, Any], pin: lock_file.Pin, folder: Path, variables: dict[str, Any]) -> Path | None:
        """Build a wheel on the host and fetch it; None in check mode.

        :raises LockingError: it cannot be built.
        """
        host = variables.get("inventory_hostname", "the host")
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        answer = self._execute_module(
            "dataops.airflow.wheel_build",
            module_args={
                "name": pin.name,
                "version": pin.version,
                "hashes": list(pin.hashes),
                "dest": shell.tmpdir,
                "python": args["interpreter"],
                "index_url": args["index_url"],
            },
            task_vars=variables,
        )
        if answer.get("failed"):
            raise LockingError(
                Problem(
                    f"wheel of {pin.name} {pin.version}, built on {host}",
                    str(answer.get("msg", "")),
                    "a source that builds there",
                    f"install what its build needs on {host}, such as build-essential and python3-dev, or choose "
                    "another version",
                )
            )
        if "path" not in answer:
            return None
        wheel = folder / Path(answer["path"]).name
        if not is_wheel_of(wheel.name, pin):
            raise LockingError(
                Problem(f"wheel of {pin.name}", wheel.name, f"version {pin.version}", "choose another version")
            )
        folder.mkdir(exist_ok=True)
        self._connection.fetch_file(answer["path"], str(wheel))
        if digest_of(wheel) != f"sha256:{answer['sha256']}":
            wheel.unlink()
            raise LockingError(
                Problem(f"wheel of {pin.name}", "damaged on its way", "an intact file", "run this again")
            )
        return wheel

    def _forget(self, stored: Stored, wheels: Sequence[str], folder: Path) -> None:
        """Remove the wheels that only the old lock named."""
        for wheel in set(stored.lock.wheels if stored.lock else []) - set(wheels):
            (folder / Path(wheel).name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def _upgrade(value: Any) -> Any:
    """What was asked for; --extra-vars NAME=VALUE brings text."""
    if not isinstance(value, str):
        return value
    try:
        return boolean(value)
    except TypeError:
        return [name.strip() for name in value.split(",")]


def _is_name(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text))
