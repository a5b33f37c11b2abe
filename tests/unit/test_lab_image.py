"""The image of the lab's hosts that a user names is used, and fetched only where it is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from expressions import CHECKOUT

NAME = "registry.example/debian-systemd:12"


@pytest.mark.parametrize(("there", "called"), [(True, []), (False, [f"pull --quiet {NAME}"])])
def test_a_named_image(there: bool, called: list[str], tmp_path: Path) -> None:
    podman = tmp_path / "podman"
    podman.write_text(
        f"""#!/bin/sh
        [ "$1 $2" = "image exists" ] && exit {0 if there else 1}
        echo "$*" >> {tmp_path}/calls
        echo an-id
        """
    )
    podman.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TEST_IMAGE": NAME}
    done = subprocess.run([CHECKOUT / "lab/image.sh"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{NAME}\n", "its standard output is the name alone"
    calls = tmp_path / "calls"
    assert (calls.read_text().splitlines() if calls.exists() else []) == called
