"""What the checkout says about itself: README, versions, no trace of where it was written."""

from __future__ import annotations

import re

from .collection import CHECKOUT, files, load, relative, tracked

LEGAL = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
SHELL_FENCES = ("console", "sh", "bash", "shell")
# In two parts, so that this file does not hold them.
TRACES = ["/wo" + "rk/", "py" + "pi.org", "deb.deb" + "ian.org", "registry.np" + "mjs"]


def normalized(line: str) -> str:
    """A command line without prompt, sudo, comment and doubled spaces."""
    line = re.sub(r"\s+#\s.*$", "", line.strip())
    line = re.sub(r"^[$#]\s+", "", line)
    line = re.sub(r"^@?\s*(sudo\s+)?", "", line)
    return " ".join(line.split())


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"(?ms)^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", text)


def commands(text: str) -> list[str]:
    """The commands of a README: of its shell blocks, the lines after a prompt; without any prompt, all lines."""
    found = []
    for language, content in fenced_blocks(text):
        if language not in SHELL_FENCES:
            continue
        lines = [line.strip() for line in content.replace("\\\n", " ").splitlines()]
        prompted = [line for line in lines if line.startswith("$ ")]
        found += [normalized(line) for line in prompted or lines if line and not line.startswith("#")]
    return [command for command in found if command]


def test_commands_are_found() -> None:
    text = "a\n```console\n$ sudo make  demo   # look\nStarted.\n```\n```yaml\nx: 1\n```\n"
    text += "```sh\n# first\ncd a\nb \\\n  c\n```\n"
    assert commands(text) == ["make demo", "cd a", "b c"]


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    readme = CHECKOUT / "README.md"
    assert readme.is_file(), "README.md is missing"
    wanted = commands(readme.read_text())
    assert wanted, "README.md has no ```console block"
    run = files("Makefile", "lab/demo.sh", "lab/test.sh", "molecule/**/*", "tests/**/*")
    texts = [path.read_text(errors="replace").replace("\\\n", " ") for path in run if path.suffix != ".pyc"]
    tested = "\n".join(normalized(line) for text in texts for line in text.splitlines())
    # A command is there when it stands in one of these files, or is a call of make for a target that there is.
    targets = set(re.findall(r"(?m)^([a-z][\w-]*):", (CHECKOUT / "Makefile").read_text()))

    def is_target(command: str) -> bool:
        words = [word for word in command.split()[1:] if "=" not in word and not word.startswith("-")]
        return command.split()[0] == "make" and bool(words) and targets.issuperset(words)

    assert [command for command in wanted if command not in tested and not is_target(command)] == []


def test_nothing_names_the_place_where_it_was_written() -> None:
    found = []
    for path in tracked():
        if path.name.upper().startswith(LEGAL):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found += [f"{relative(path)}:{number}: {trace}" for trace in TRACES if trace in line]
    assert found == []


def test_the_changelog_has_the_version_of_the_collection() -> None:
    changelog = CHECKOUT / "changelogs" / "changelog.yaml"
    if not changelog.is_file():
        # Before the first release, its fragments are there.
        assert list((CHECKOUT / "changelogs" / "fragments").glob("*.yml"))
        return
    releases = load(changelog)["releases"]
    newest = max(releases, key=lambda version: [int(part) for part in re.findall(r"\d+", version)[:3]])
    assert load(CHECKOUT / "galaxy.yml")["version"] == newest
