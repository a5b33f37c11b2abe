# Copyright: the dataops.airflow contributors
# Apache License 2.0 (see LICENSE)
"""The pinned installer, uv: fetched once, checked against its hash, run with no settings but ours."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class BuildError(Exception):
    """A step that failed, with what an operator needs to know."""


def run(argv: list[str], environment: dict[str, str]) -> str:
    """Run a command and return its standard output.

    :raises BuildError: with the end of its standard error, when it does not exit with 0.
    """
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{Path(argv[0]).name} {argv[1]} failed ({done.returncode}): {done.stderr.strip()[-3000:]}")
    return done.stdout


def identify(python: str) -> tuple[str, str]:
    """Version of an interpreter as ``major.minor``, and the file that it is.

    Not a virtual environment's, but the one below it, with no links on the way: two names of one interpreter are equal.
    """
    base = "os.path.realpath(getattr(sys, '_base_executable', '') or sys.executable)"
    code = f"import os, sys; print('%d.%d' % sys.version_info[:2], {base})"
    version, _, executable = run([python, "-c", code], dict(os.environ)).strip().partition(" ")
    return version, executable


def environment_for(index_url: str, ca_bundle: str, cache: str) -> dict[str, str]:
    """Environment of the installers: the host's own, less its Python settings, plus index and certificates."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV"))}
    keep.update({"UV_CACHE_DIR": cache, "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never", "PIP_NO_INPUT": "1"})
    # Some hundred files for each host: with uv's three tries, one short fault of an index ended a whole run.
    keep.update({"PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_LINK_MODE": "hardlink", "UV_HTTP_RETRIES": "5"})
    if index_url:
        keep.update({"PIP_INDEX_URL": index_url, "UV_DEFAULT_INDEX": index_url})
    if Path(ca_bundle).is_file():
        keep.update({"PIP_CERT": ca_bundle, "SSL_CERT_FILE": ca_bundle})
    return keep


def bundle_of(certificates: Sequence[str], folder: Path, trusted: str = "") -> str:
    """Write one PEM file with the authorities that are trusted anyway and some more.

    :param certificates: PEM files with the others.
    :param folder: where to write it.
    :param trusted: PEM file with those that are trusted anyway; where there is none, those of this machine.
    :returns: its path; ``trusted`` as it is where there are no others.
    """
    if not certificates:
        return trusted
    candidates = (trusted, os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile)
    before = next((file for file in candidates if file and Path(file).is_file()), None)
    bundle = folder / "authorities.pem"
    texts = [Path(file).read_text(encoding="utf-8") for file in (*([before] if before else []), *certificates)]
    bundle.write_text("\n".join(texts), encoding="utf-8")
    return str(bundle)


def install_uv(
    folder: Path, requirement: str, python: str, environment: dict[str, str], links: Sequence[str] = ()
) -> Path:
    """Put the pinned uv into ``folder`` and return its path; older ones are removed.

    :param folder: where to keep it.
    :param requirement: requirement lines of uv with their hashes.
    :param python: interpreter with ``venv`` and ``ensurepip``.
    :param environment: of :func:`environment_for`.
    :param links: options that make pip look elsewhere than at its index.

    :raises BuildError: when the requirement names no version, or pip cannot install it.
    """
    version = re.search(r"^uv==(\S+)", requirement, re.MULTILINE)
    if not version:
        raise BuildError("the option uv must hold a line uv==VERSION with its hashes")
    binary = folder / f"uv-{version[1]}"
    if binary.exists():
        return binary
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
        requirements = Path(scratch, "uv.txt")
        requirements.write_text(requirement)
        run([python, "-m", "venv", f"{scratch}/venv"], environment)
        run(
            [
                f"{scratch}/venv/bin/pip",
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--no-compile",
                "--require-hashes",
                *links,
                "--requirement",
                str(requirements),
            ],
            environment,
        )
        for old in folder.glob("uv-*"):
            old.unlink()
        Path(f"{scratch}/venv/bin/uv").replace(binary)
    return binary
