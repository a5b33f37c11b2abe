"""wheelhouse: which wheels a target needs, what a folder lacks, filling it, and the tar for a host."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible_collections.dataops.airflow.plugins.action import wheelhouse as action
from ansible_collections.dataops.airflow.plugins.module_utils import wheelhouse as rules
from ansible_collections.dataops.airflow.plugins.module_utils.lock_file import parse
from ansible_collections.dataops.airflow.plugins.module_utils.wheelhouse import Target, WheelhouseError, missing
from packaging.tags import sys_tags

BOOKWORM = Target("3.11.2", "x86_64", "2.36")
TRIXIE = Target("3.13.5", "x86_64", "2.41")
INDEX = "https://robot:s3cr3t%2Ftoken@packages.example.org/simple"
WHEELS = {
    "cp311": (
        "alpha-1.0-py3-none-any.whl",
        "beta_x-2.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "uv-0.0.1-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    ),
    "cp313": (
        "alpha-1.0-py3-none-any.whl",
        "beta_x-2.0-cp313-cp313-manylinux_2_28_x86_64.whl",
        "gamma-3.0-cp39-abi3-manylinux_2_34_x86_64.whl",
        "uv-0.0.1-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    ),
}
"""What the fake index has for each Python; a wheel's content is its name."""
UV_WHEEL = WHEELS["cp311"][2]

# Stands for python and pip. `venv` leaves a copy of it where the real one leaves pip.
TOOL = """\
#!/bin/sh
echo "$(basename $0) $*" >> {root}/log
case "$(basename $0) $*" in
  "python -m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/pip" ;;
  "pip download "*)
    env >> {root}/environment
    for option; do
      case "$option" in
        --abi=*) abi=${{option#--abi=}} ;;
        --requirement=*) requirements=${{option#--requirement=}} ;;
        --dest=*) dest=${{option#--dest=}} ;;
      esac
    done
    cat "$requirements" >> {root}/requirements
    sed -n 's/^\\([a-z-]*\\)==\\([^ ]*\\).*/\\1-\\2/p' "$requirements" | while read -r pin; do
      stem="${{pin%-*}}"
      found="$(ls {root}/index/$abi/ | grep "^$(echo $stem | tr - _)-${{pin##*-}}-")" || {{
        echo "ERROR: No matching distribution found for $pin at $PIP_INDEX_URL" >&2; exit 1; }}
      cp "{root}/index/$abi/$found" "$dest/"
    done || exit 1 ;;
  *) exit 8 ;;
esac
"""
Call = Callable[..., dict[str, Any]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def pin(text: str, *wheels: str) -> str:
    return " \\\n    ".join([text, *(f"--hash=sha256:{digest(wheel)}" for wheel in wheels)]) + "\n"


LOCK = (
    "# a lock\n"
    + pin("alpha==1.0", "alpha-1.0.tar.gz", WHEELS["cp311"][0])
    + pin("beta-x==2.0 ; platform_python_implementation == 'CPython'", WHEELS["cp311"][1], WHEELS["cp313"][1])
    + pin("gamma==3.0 ; python_full_version >= '3.13'", WHEELS["cp313"][2])
    + pin("gamma==2.0 ; python_full_version < '3.11'", "gamma-2.0-py3-none-any.whl")
)
UV = pin("uv==0.0.1", UV_WHEEL)


def hashes(*files: str) -> dict[str, str]:
    return {file: digest(file) for file in files}


def gaps(files: dict[str, str], *targets: Target) -> list[str]:
    found: list[str] = missing(files, parse(LOCK), targets or (BOOKWORM,), UV)
    return found


# -- which wheels ----------------------------------------------------------------------------------------------------


def test_platforms_end_at_the_targets_c_library() -> None:
    platforms = BOOKWORM.platforms
    assert platforms[:2] == ["linux_x86_64", "manylinux_2_36_x86_64"] and platforms[-1] == "manylinux1_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux2010_x86_64"} <= set(platforms)
    assert "manylinux_2_37_x86_64" not in platforms and "manylinux_2_41_x86_64" in TRIXIE.platforms
    arm = Target("3.11.2", "aarch64", "2.36").platforms
    assert arm[0] == "linux_aarch64" and arm[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1-cp39-abi3-manylinux_2_34_x86_64.whl", True),
        ("a-1-cp311-cp311-linux_x86_64.whl", True),
        ("a-1-cp311-none-any.whl", True),
        ("a-1-cp312-abi3-manylinux_2_17_x86_64.whl", False),
        ("a-1-cp313-cp313-manylinux_2_17_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_39_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_17_aarch64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp311-cp311-win_amd64.whl", False),
        ("a-1.tar.gz", False),
        ("notes.txt", False),
    ],
)
def test_what_fits(wheel: str, fits: bool) -> None:
    assert (rules.rank(wheel, BOOKWORM) is not None) is fits


def test_pip_would_take_the_same() -> None:
    """packaging, for the interpreter and platform that these tests run on, has the tags that we make."""
    glibc = str(os.confstr("CS_GNU_LIBC_VERSION")).split()[1]
    here = Target(platform.python_version(), platform.machine(), glibc)
    ours = sorted(rules.ranks(here), key=rules.ranks(here).__getitem__)
    assert ours == list(dict.fromkeys(sys_tags()))


def test_a_full_folder_lacks_nothing() -> None:
    assert gaps(hashes(*WHEELS["cp311"])) == []
    assert gaps(hashes(*WHEELS["cp311"], *WHEELS["cp313"]), BOOKWORM, TRIXIE) == []


def test_an_empty_folder_lacks_what_the_markers_let_through() -> None:
    assert [gap.partition(" ")[0] for gap in gaps({})] == ["alpha==1.0", "beta-x==2.0", "uv==0.0.1"]
    assert [gap.partition(" ")[0] for gap in gaps({}, TRIXIE)] == [
        "alpha==1.0",
        "beta-x==2.0",
        "gamma==3.0",
        "uv==0.0.1",
    ]


def test_a_wheel_for_another_target_is_none() -> None:
    assert gaps(hashes(*WHEELS["cp313"])) == ["beta-x==2.0 for Python 3.11 on x86_64 with glibc 2.36"]
    old = Target("3.13.5", "x86_64", "2.31")
    assert gaps(hashes(*WHEELS["cp313"]), TRIXIE, old) == ["gamma==3.0 for Python 3.13 on x86_64 with glibc 2.31"]


def test_a_wheel_with_another_hash_is_none_and_named() -> None:
    name = WHEELS["cp311"][1]
    (gap,) = gaps({**hashes(*WHEELS["cp311"]), name: digest("damaged")})
    assert gap == f"beta-x==2.0 for {BOOKWORM}: {name} has a hash that the lock does not have"


def test_another_version_is_none() -> None:
    files = hashes(*WHEELS["cp311"][1:])
    # With the hash of the lock: the name decides as well, as for pip.
    files["alpha-1.1-py3-none-any.whl"] = digest(WHEELS["cp311"][0])
    assert gaps(files) == [f"alpha==1.0 for {BOOKWORM}"]


def test_the_best_of_several_is_chosen() -> None:
    names = ["a-1-py3-none-any.whl", "a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "a-1-cp39-abi3-linux_x86_64.whl"]
    chosen, left = rules.choose(hashes(*names), parse(pin("a==1", *names)).pins, BOOKWORM)
    assert (list(chosen), left) == ([names[1]], [])


def test_surplus_is_what_no_line_names() -> None:
    files = {**hashes(*WHEELS["cp313"], "delta-1-py3-none-any.whl", "notes.txt"), UV_WHEEL: "damaged"}
    assert rules.find_surplus(files, parse(LOCK), UV) == [UV_WHEEL, "delta-1-py3-none-any.whl", "notes.txt"]


def test_targets_of_probes() -> None:
    good = {"python": {"full": "3.11.2"}, "machine": "x86_64", "glibc": "2.36"}
    assert rules.targets_of([good, good, {**good, "glibc": ""}, {**good, "python": {"full": ""}}]) == [BOOKWORM]


def test_hashes_of_a_folder(tmp_path: Path) -> None:
    assert rules.hash_folder(tmp_path / "none") == {}
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").touch()
    for name in "bac":
        (tmp_path / name).write_text(name)
    assert list(rules.hash_folder(tmp_path).items()) == [(name, digest(name)) for name in "abc"]


# -- preflight -------------------------------------------------------------------------------------------------------


def test_a_wheelhouse_that_lacks_wheels_is_refused(site: Path) -> None:
    assert rules.check_wheelhouse(put(site, "cp311"), site / "lock.txt", [BOOKWORM], UV) == []
    (problem,) = rules.check_wheelhouse(site / "house", site / "lock.txt", [BOOKWORM, TRIXIE], UV)
    assert problem.subject == f"airflow_wheelhouse {site}/house"
    assert problem.found.splitlines() == [
        "2 without a usable wheel:",
        f"beta-x==2.0 for {TRIXIE}",
        f"gamma==3.0 for {TRIXIE}",
    ]
    assert "playbooks/wheelhouse.yml" in problem.remedy


def test_many_gaps_are_counted(site: Path) -> None:
    (site / "lock.txt").write_text("".join(pin(f"package{number}==1", "x") for number in range(30)))
    (problem,) = rules.check_wheelhouse(site / "none", site / "lock.txt", [BOOKWORM], UV)
    lines = problem.found.splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("31 without a usable wheel:", rules.SHOWN + 2, "and 21 more")


@pytest.mark.parametrize("text", ["", "alpha>=1\n", "alpha==1.0\n", None])
def test_a_bad_lock_is_a_problem(site: Path, text: str | None) -> None:
    lock = site / ("lock.txt" if text is not None else "none.txt")
    if text is not None:
        lock.write_text(text)
    (problem,) = rules.check_wheelhouse(site, lock, [BOOKWORM], UV)
    assert problem.subject == f"airflow_lock {lock}"


# -- the tar for a host ----------------------------------------------------------------------------------------------


def bundle(site: Path, target: Target = BOOKWORM, **options: Any) -> Path:
    return rules.bundle(site / "house", site / "lock.txt", UV, target, site / "tmp", **options)


def members(tar: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content and member.mode & 0o444 == 0o444
            found[member.name] = content.read().decode()
    return found


def test_a_host_gets_its_wheels_and_no_others(site: Path) -> None:
    put(site, "cp311", "cp313")
    (site / "house/notes.txt").write_text("x")
    assert members(bundle(site)) == {name: name for name in WHEELS["cp311"]}
    assert members(bundle(site, TRIXIE)) == {name: name for name in WHEELS["cp313"]}


def test_the_tar_is_written_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(site, "cp311")
    hashing = mock.Mock(wraps=rules.hash_folder)
    monkeypatch.setattr(rules, "hash_folder", hashing)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(bundle(site))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1 and hashing.call_count == 1
    assert [path.name for path in (site / "tmp").iterdir()] == [found[0].name]


def test_a_changed_wheelhouse_gets_another_tar(site: Path) -> None:
    first = bundle(put(site, "cp311").parent)
    damaged = site / "house" / WHEELS["cp311"][0]
    damaged.write_text("damaged, and longer")
    with pytest.raises(WheelhouseError, match=r"has no usable wheel of alpha==1\.0 .*has a hash"):
        bundle(site)
    damaged.unlink()
    partial = bundle(site, complete=False)
    assert partial != first and set(members(partial)) == set(WHEELS["cp311"][1:])


# -- filling ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a fake interpreter, a fake index and a lock; `house` is the wheelhouse."""
    (tmp_path / "python").write_text(TOOL.format(root=tmp_path))
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "lock.txt").write_text(LOCK)
    (tmp_path / "tmp").mkdir()
    for python, wheels in WHEELS.items():
        (tmp_path / "index" / python).mkdir(parents=True)
        for wheel in wheels:
            (tmp_path / "index" / python / wheel).write_text(wheel)
    monkeypatch.setattr(action.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "tmp"))
    return tmp_path


def put(site: Path, *pythons: str) -> Path:
    """Fill the wheelhouse by hand."""
    house = site / "house"
    house.mkdir(exist_ok=True)
    for python in pythons:
        for wheel in WHEELS[python]:
            (house / wheel).write_text(wheel)
    return house


@pytest.fixture
def call(site: Path) -> Call:
    """Run the action in this process; its answer."""

    def run(*targets: Target, check: bool = False, diff: bool = False, **options: Any) -> dict[str, Any]:
        task = mock.MagicMock(async_val=0, check_mode=check, diff=diff)
        task.args = {
            "path": str(site / "house"),
            "lock": str(site / "lock.txt"),
            "uv": UV,
            "targets": [vars(target) for target in targets or (BOOKWORM,)],
            "wheels": str(site / "wheels"),
            "index_url": INDEX,
            **options,
        }
        connection = mock.MagicMock(_shell=SimpleNamespace(tmpdir=None))
        plugin = action.ActionModule(task, connection, mock.MagicMock(), DataLoader(), None, None)
        answer = dict(plugin.run(task_vars={}))
        assert "s3cr3t" not in json.dumps(answer)
        assert list((site / "tmp").iterdir()) == [], "nothing is left behind"
        return answer

    return run


def took(site: Path, name: str) -> list[str]:
    """Lines that the fake tools wrote since the last call of this function."""
    path = site / name
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def held(site: Path) -> list[str]:
    house = site / "house"
    return sorted(path.name for path in house.iterdir()) if house.exists() else []


def test_bare_then_unchanged(site: Path, call: Call) -> None:
    planned = call(check=True)
    assert planned["changed"] is True and held(site) == [] and took(site, "log") == []
    done = call()
    assert done["added"] == planned["added"] == ["alpha==1.0", "beta-x==2.0", "uv==0.0.1"]
    assert held(site) == sorted(WHEELS["cp311"])
    assert (done["packages"], done["size"], done["surplus"]) == (3, sum(map(len, WHEELS["cp311"])), [])
    assert done["path"] == str(site / "house")
    assert all((site / "house" / name).stat().st_mode & 0o777 == 0o644 for name in held(site))
    took(site, "log")
    again = call()
    assert (again["changed"], again["added"], again["packages"]) == (False, [], 3)
    assert took(site, "log") == [], "no pip, no network"
    assert call(check=True)["changed"] is False


def test_how_pip_is_called(site: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    authorities = site / "authorities.pem"
    authorities.touch()
    monkeypatch.setenv("PIP_INDEX_URL", "of-the-user")
    call(ca_bundle=str(authorities))
    venv, download = took(site, "log")
    assert venv.startswith("python -m venv ")
    words = download.split()
    for option in (
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
        *(f"--platform={tag}" for tag in BOOKWORM.platforms),
    ):
        assert option in words
    assert "s3cr3t" not in download
    environment = took(site, "environment")
    assert {f"PIP_INDEX_URL={INDEX}", f"PIP_CERT={authorities}", f"SSL_CERT_FILE={authorities}"} <= set(environment)
    requirements = "\n".join(took(site, "requirements"))
    assert ";" not in requirements, "pip would evaluate the markers for its own interpreter"
    assert "gamma" not in requirements
    assert f"--hash=sha256:{digest(WHEELS['cp311'][0])}" in requirements


@pytest.mark.parametrize("bundle", ["authorities.pem", "missing.pem"])
def test_the_sites_authorities_are_trusted_as_well(
    site: Path, call: Call, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside those of the bundle; where there is none, beside those that this machine trusts."""
    (site / "authorities.pem").write_text("public")
    (site / "machine.pem").write_text("of the machine")
    (site / "own.pem").write_text("own")
    monkeypatch.setenv("SSL_CERT_FILE", str(site / "machine.pem"))
    (site / "python").write_text((site / "python").read_text().replace("env >>", f'cp "$PIP_CERT" {site}/used; env >>'))
    call(ca_bundle=str(site / bundle), ca_certificates=[str(site / "own.pem")])
    expected = "public\nown" if bundle == "authorities.pem" else "of the machine\nown"
    assert (site / "used").read_text() == expected


def test_an_authority_that_is_not_there_is_told(site: Path, call: Call) -> None:
    with pytest.raises(AnsibleActionFail, match=r"own\.pem"):
        call(ca_certificates=[str(site / "own.pem")])


def test_two_targets_share_what_they_can(site: Path, call: Call) -> None:
    done = call(BOOKWORM, TRIXIE, BOOKWORM)
    assert held(site) == sorted({*WHEELS["cp311"], *WHEELS["cp313"]})
    assert (done["packages"], done["added"]) == (5, ["alpha==1.0", "beta-x==2.0", "uv==0.0.1", "gamma==3.0"])
    requirements = [line for line in took(site, "requirements") if "==" in line]
    assert [line.split("==")[0] for line in requirements] == ["alpha", "beta-x", "uv", "beta-x", "gamma"]
    assert len(took(site, "log")) == 3, "one environment, one download for each target"
    assert call(TRIXIE)["surplus"] == [], "the lock names the other target's wheels as well"


def test_a_damaged_file_is_replaced_and_others_are_left(site: Path, call: Call) -> None:
    house = put(site, "cp311")
    (house / UV_WHEEL).write_text("half of it")
    (house / "notes.txt").write_text("mine")
    done = call(diff=True)
    assert (done["changed"], done["added"], done["surplus"]) == (True, ["uv==0.0.1"], ["notes.txt"])
    assert done["diff"]["after"] == "uv==0.0.1\n" and done["diff"]["before"] == ""
    assert (house / UV_WHEEL).read_text() == UV_WHEEL and (house / "notes.txt").read_text() == "mine"
    assert [line.split("==")[0] for line in took(site, "requirements") if "==" in line] == ["uv"]
    assert "diff" not in call(diff=True)


def test_wheels_that_were_built_are_not_fetched(site: Path, call: Call) -> None:
    built = "alpha-1.0-py3-none-any.whl"
    (site / "wheels").mkdir()
    (site / "wheels" / built).write_text("built here")
    (site / "wheels" / WHEELS["cp311"][1]).write_text("built elsewhere: the lock does not have its hash")
    (site / "lock.txt").write_text(LOCK.replace(digest(built), digest("built here")))
    (site / "index/cp311" / built).unlink()
    done = call()
    assert done["packages"] == 3
    assert (site / "house" / built).read_text() == "built here"
    assert (site / "house" / WHEELS["cp311"][1]).read_text() == WHEELS["cp311"][1]
    assert (site / "wheels" / built).exists(), "copied, not moved"


def test_a_failed_download_leaves_no_half(site: Path, call: Call) -> None:
    (site / "index/cp313" / WHEELS["cp313"][2]).unlink()
    (site / "house/.partial-of-a-killed-run").mkdir(parents=True)
    with pytest.raises(AnsibleActionFail) as refusal:
        call(BOOKWORM, TRIXIE)
    message = str(refusal.value)
    assert "No matching distribution found for gamma-3.0" in message and "remedy:" in message
    assert "s3cr3t" not in message
    assert held(site) == sorted(WHEELS["cp311"]), "what is complete stays"
    assert list((site / "tmp").iterdir()) == []
    (site / "index/cp313" / WHEELS["cp313"][2]).write_text(WHEELS["cp313"][2])
    assert call(BOOKWORM, TRIXIE)["added"] == ["beta-x==2.0", "gamma==3.0"]


def test_retries_are_told_once() -> None:
    retry = (
        "WARNING: Retrying (Retry(total={}, connect=None, status=None)) after connection broken by "
        "'NewConnectionError('<pip.HTTPSConnection object at 0x7f{}>: Name or service not known')': /simple/alpha/"
    )
    text = "\n".join([retry.format(4, 1), retry.format(3, 2), "ERROR: No matching distribution found for alpha"])
    assert action.shorten(text) == (
        "WARNING: connection broken by 'NewConnectionError('Name or service not known')': /simple/alpha/\n"
        "ERROR: No matching distribution found for alpha"
    )


def test_a_wheel_with_a_wrong_hash_never_gets_its_name(site: Path, call: Call) -> None:
    (site / "index/cp311" / UV_WHEEL).write_text("something else")
    with pytest.raises(AnsibleActionFail, match=r"still without a usable wheel: uv==0\.0\.1"):
        call()
    assert held(site) == sorted(WHEELS["cp311"][:2])


def test_a_python_without_ensurepip_is_refused(site: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AnsibleActionFail, match=r"no module ensurepip .*python3-venv"):
        call()
    put(site, "cp311")
    assert call()["changed"] is False, "it is not needed when nothing is missing"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"python": ""}, "is no python"),
        ({"python": "3.11"}, "is no python"),
        ({"glibc": ""}, "is no glibc"),
        ({"machine": "x86 64"}, "is no machine"),
    ],
)
def test_a_target_that_is_none_is_refused(site: Path, call: Call, change: dict[str, str], word: str) -> None:
    with pytest.raises(AnsibleActionFail, match=word):
        call(targets=[{**vars(BOOKWORM), **change}])
    assert not (site / "house").exists()


def test_a_bad_lock_is_refused(site: Path, call: Call) -> None:
    (site / "lock.txt").write_text("alpha==1.0\n")
    with pytest.raises(AnsibleActionFail, match=r"alpha==1\.0 is missing a hash"):
        call()
    assert not (site / "house").exists()
