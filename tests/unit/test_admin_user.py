"""admin_user: unchanged, created, password set, check mode, and every way in which it can fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import admin_user

PASSWORD = "p@ss 'w\"ord $HOME %s"  # noqa: S105
# The users are files named after them, which hold their passwords.
AIRFLOW = """\
#!/bin/sh
read -r first; read -r second
echo "$@" >> {folder}/calls
[ "$first" = "$second" ] || {{ echo "Passwords did not match" >&2; exit 1; }}
if [ -f {folder}/taken ]; then
  rm {folder}/taken
  echo 'DETAIL:  Key (name)=(can_read) already exists.' >&2
  exit 1
fi
[ ! -f {folder}/broken ] || {{ echo "database is away" >&2; exit 3; }}
case "$1 $2" in
  "users create") [ -f {folder}/user-$4 ] && {{ echo "$4 already exist in the db"; exit 0; }} ;;
  "users reset-password") ;;
  *) exit 2 ;;
esac
[ -f {folder}/forgetful ] || printf %s "$first" > {folder}/user-$4
"""


class Api(BaseHTTPRequestHandler):
    """Grants a token to whom the folder has with the same password."""

    folder: Path

    def do_POST(self) -> None:
        login = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = self.folder / f"user-{login['username']}"
        granted = user.is_file() and user.read_text() == login["password"]
        status = 500 if (self.folder / "ill").exists() else 201 if granted else 401
        body = json.dumps({"access_token": "t0ken"} if granted else {"detail": "Invalid credentials"}).encode()
        if (self.folder / "foreign").exists():
            status, body = 200, b"<html>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Users, and the command that makes them."""
    (tmp_path / "airflow").write_text(AIRFLOW.format(folder=tmp_path))
    (tmp_path / "airflow").chmod(0o755)
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    """Address of the API."""
    handler = type("Handler", (Api,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def call(capsys: pytest.CaptureFixture[str], folder: Path, url: str, check: bool = False) -> dict[str, Any]:
    """Run the module in this process; its JSON answer."""
    options = {
        "url": url,
        "command": str(folder / "airflow"),
        "username": "admin",
        "password": PASSWORD,
        "email": "admin@example.org",
        "_ansible_check_mode": check,
    }
    capsys.readouterr()
    with patch_module_args(options), pytest.raises(SystemExit):
        admin_user.main()
    output = capsys.readouterr().out
    assert PASSWORD not in output and json.dumps(PASSWORD) not in output
    answer: dict[str, Any] = json.loads(output)
    return answer


def calls(folder: Path) -> list[str]:
    """What the command was called with."""
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_created_then_unchanged(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    planned = call(capsys, folder, url, check=True)
    assert (planned["changed"], planned["action"]) == (True, "login refused") and calls(folder) == []
    done = call(capsys, folder, url)
    assert (done["changed"], done["action"]) == (True, "created")
    assert (folder / "user-admin").read_text() == PASSWORD
    assert calls(folder) == [
        "users create --username admin --role Admin --email admin@example.org --firstname admin --lastname Airflow"
    ]
    again = call(capsys, folder, url)
    assert (again["changed"], again["action"]) == (False, "none") and len(calls(folder)) == 1


def test_a_changed_password_is_set(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "user-admin").write_text("another")
    done = call(capsys, folder, url)
    assert (done["changed"], done["action"]) == (True, "password set")
    assert (folder / "user-admin").read_text() == PASSWORD
    assert calls(folder)[-1] == "users reset-password --username admin"
    assert all(PASSWORD not in line for line in calls(folder))


def test_a_row_that_a_component_was_faster_with(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "taken").touch()
    done = call(capsys, folder, url)
    assert (done["changed"], done["action"]) == (True, "created")
    assert [line.split()[1] for line in calls(folder)] == ["create", "create"]


def test_a_command_that_fails_is_shown(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken").touch()
    answer = call(capsys, folder, url)
    assert answer["failed"] is True
    assert answer["msg"] == "administrator admin: airflow users failed (3): database is away"


def test_a_login_that_stays_refused_is_a_failure(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "forgetful").touch()
    assert "still refused after: created" in call(capsys, folder, url)["msg"]


def test_an_api_that_is_ill_or_away_is_no_refusal(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ill").touch()
    assert "/auth/token answered 500" in call(capsys, folder, url)["msg"]
    (folder / "ill").rename(folder / "foreign")
    assert "did not answer as Airflow's API does" in call(capsys, folder, url)["msg"]
    assert "cannot be reached" in call(capsys, folder, "http://127.0.0.1:1")["msg"]
    assert calls(folder) == []
