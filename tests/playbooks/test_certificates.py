"""The role certificates, on the control node: what it makes, what it leaves, and what it refuses."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.playbook import run_playbook

CHECKOUT = Path(__file__).resolve().parents[2]
SETTINGS = """---
cluster_tls: true
# A task that would connect fails.
ansible_connection: ssh
ansible_ssh_executable: /bin/false
"""


class Site:
    """A copy of the example inventory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inventory = root / "site"
        shutil.copytree(CHECKOUT / "inventories/cluster", self.inventory)
        (self.inventory / "group_vars/all/cluster.yml").write_text(SETTINGS)
        self.folder = self.inventory / ".certificates"

    def sign(self, *arguments: str, succeeds: bool = True) -> str:
        """Run the playbook; what it said."""
        done = run_playbook(
            self.root,
            *("-i", str(self.inventory), *arguments, str(CHECKOUT / "playbooks/certificates.yml")),
            collections=CHECKOUT / ".ansible/collections",
            config=CHECKOUT / "ansible.cfg",
        )
        assert (done.returncode == 0) is succeeds, done.stdout[-3000:] + done.stderr[-1000:]
        return done.stdout

    def texts(self) -> dict[str, str]:
        """Files of the folder."""
        return {path.name: path.read_text() for path in sorted(self.folder.glob("*"))}


def changed(output: str) -> int:
    return sum(int(count) for count in re.findall(r"changed=(\d+)", output))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with its certificates."""
    site = Site(tmp_path_factory.mktemp("certificates"))
    output = site.sign("--check")
    assert "db1: DNS:db1, DNS:localhost, IP:127.0.0.1" in output and changed(output) == 1
    assert not site.folder.exists()
    site.sign()
    return site


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    """A copy of it."""
    copy = Site(tmp_path)
    shutil.copytree(made.folder, copy.folder)
    return copy


def test_who_serves_gets_a_certificate(made: Site) -> None:
    assert list(made.texts()) == [
        ".gitignore",
        "ca.key",
        "ca.pem",
        "control1.key",
        "control1.pem",
        "db1.key",
        "db1.pem",
    ]
    assert made.texts()[".gitignore"] == "*.key\n"
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in made.folder.glob("*.*")}
    assert modes[".key"] == 0o600 and made.folder.stat().st_mode & 0o777 == 0o700
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", "-purpose", "sslserver", "-verify_hostname"]
    for host in ("db1", "control1"):
        subprocess.run([*verify, host, f"{host}.pem"], cwd=made.folder, check=True, capture_output=True)


def test_nothing_is_due(site: Site) -> None:
    before = site.texts()
    assert changed(site.sign()) == 0
    assert site.texts() == before


def test_a_certificate_that_ends_soon_is_renewed_with_its_key(site: Site) -> None:
    before = site.texts()
    soon = ("-e", "certificates_days=800", "-e", "certificates_renew_days=400")
    assert changed(site.sign("--check", *soon)) == 1
    assert site.texts() == before
    site.sign(*soon)
    assert {name for name, text in site.texts().items() if text != before[name]} == {"control1.pem", "db1.pem"}
    assert changed(site.sign(*soon)) == 0


@pytest.mark.parametrize("trouble", ["no certificate", "no key", "another key", "other names"])
def test_one_that_does_not_fit_is_made_anew(site: Site, trouble: str) -> None:
    before = site.texts()
    if trouble == "no certificate":
        (site.folder / "db1.pem").unlink()
    elif trouble == "no key":
        (site.folder / "db1.key").unlink()
    elif trouble == "another key":
        shutil.copy(site.folder / "control1.key", site.folder / "db1.key")
    else:
        (site.inventory / "host_vars").mkdir()
        (site.inventory / "host_vars/db1.yml").write_text("---\nansible_host: 10.0.0.1\n")
    site.sign()
    after = site.texts()
    assert after["db1.pem"] != before["db1.pem"]
    assert {name for name in after if after[name] != before[name]} <= {"db1.pem", "db1.key"}


def test_without_its_key_there_is_no_other_authority(site: Site) -> None:
    (site.folder / "ca.key").unlink()
    before = site.texts()
    output = " ".join(site.sign(succeeds=False).split())
    assert "without its key" in output and "remedy:" in output
    assert site.texts() == before
    (site.folder / "ca.pem").unlink()
    site.sign()
    assert {name for name, text in site.texts().items() if before.get(name) != text} == {
        "ca.key",
        "ca.pem",
        "control1.pem",
        "db1.pem",
    }
