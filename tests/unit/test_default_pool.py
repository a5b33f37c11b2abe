"""default_pool: made by the database, followed, set by hand, check mode, and an API that is away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.dataops.airflow.plugins.modules import default_pool


class Api(BaseHTTPRequestHandler):
    """Keeps the slots in a file, and refuses what Airflow refuses for this pool."""

    folder: Path

    def answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201, {"access_token": "t0ken"})

    def do_GET(self) -> None:
        (self.folder / "asked").touch()
        granted = self.headers["Authorization"] == "Bearer t0ken" and self.path == "/api/v2/pools/default_pool"
        self.answer(200 if granted else 403, {"name": "default_pool", "slots": present(self.folder)})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/api/v2/pools/default_pool?update_mask=slots":
            self.answer(400, {"detail": "Only slots and included_deferred can be modified on Default Pool"})
            return
        (self.folder / "pool").write_text(str(body["slots"]))
        self.answer(200, body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def present(folder: Path) -> int:
    """Slots of the pool."""
    return int((folder / "pool").read_text())


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Address of the API."""
    handler = type("Handler", (Api,), {"folder": tmp_path})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def call(
    capsys: pytest.CaptureFixture[str], folder: Path, url: str, slots: int, check: bool = False, chosen: bool = False
) -> dict[str, Any]:
    """Run the module in this process; its JSON answer."""
    options = {
        "url": url,
        "username": "admin",
        "password": "Kq9-Kq9-mmmA-7",
        "slots": slots,
        "record": str(folder / "record"),
        "chosen": chosen,
        "_ansible_check_mode": check,
    }
    capsys.readouterr()
    with patch_module_args(options), pytest.raises(SystemExit):
        default_pool.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_the_pool_of_a_new_database_is_only_written_down(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pool").write_text("32")
    assert call(capsys, tmp_path, url, 32)["changed"] is False
    (tmp_path / "asked").unlink()
    assert call(capsys, tmp_path, url, 32)["slots"] == 32
    assert not (tmp_path / "asked").exists(), "nothing to ask the API for"


def test_the_pool_follows_the_cluster(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pool").write_text("128")
    assert call(capsys, tmp_path, url, 32, check=True)["changed"] is True
    assert present(tmp_path) == 128 and not (tmp_path / "record").exists()
    for slots in (32, 48, 16):
        done = call(capsys, tmp_path, url, slots)
        assert (done["changed"], done["slots"], present(tmp_path)) == (True, slots, slots)
    assert done["diff"] == {"before": "48 slots\n", "after": "16 slots\n"}


def test_a_pool_that_was_set_by_hand_is_kept(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where another test has loaded Ansible's own side, a warning is shown and not part of the answer.
    warnings: list[str] = []
    monkeypatch.setattr(default_pool.AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    (tmp_path / "record").write_text("32\n")
    (tmp_path / "pool").write_text("50")
    done = call(capsys, tmp_path, url, 48)
    assert (done["changed"], done["slots"], present(tmp_path)) == (False, 50, 50)
    assert len(warnings) == 1 and "50 slots, set by hand" in warnings[0]
    assert call(capsys, tmp_path, url, 32)["slots"] == 32, "as long as nothing is to follow, nobody looks"
    (tmp_path / "pool").write_text("48")
    assert call(capsys, tmp_path, url, 48)["changed"] is False
    assert call(capsys, tmp_path, url, 64)["changed"] is True, "given back, it follows again"


def test_a_number_that_the_inventory_chose_wins(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "record").write_text("32\n")
    (tmp_path / "pool").write_text("100")
    assert call(capsys, tmp_path, url, 64, check=True, chosen=True)["changed"] is True and present(tmp_path) == 100
    assert call(capsys, tmp_path, url, 64, chosen=True)["diff"] == {"before": "100 slots\n", "after": "64 slots\n"}
    assert call(capsys, tmp_path, url, 64, chosen=True)["changed"] is False and present(tmp_path) == 64
    (tmp_path / "pool").write_text("100")
    assert call(capsys, tmp_path, url, 64, chosen=True)["changed"] is True, "and is looked at in each run"
    assert present(tmp_path) == 64
    assert call(capsys, tmp_path, url, 48)["changed"] is True, "no longer chosen, it follows again"


def test_an_api_that_is_away_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "record").write_text("nonsense")
    answer = call(capsys, tmp_path, "http://127.0.0.1:1", 48)
    assert answer["failed"] is True and answer["msg"].startswith("default_pool: http://127.0.0.1:1 cannot be reached")
