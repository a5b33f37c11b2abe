"""scheduler_send: what Airflow tries again when a task is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from programs import load

FILE = Path(__file__).parents[2] / "roles/airflow/files/scheduler_send.py"


class AirflowTaskTimeout(BaseException):
    """Airflow's, which no handler of errors catches."""


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What goes around the sending, with what the file takes from Airflow."""
    names: dict[str, dict[str, Any]] = {
        "airflow": {}, "airflow.sdk": {}, "airflow.sdk.exceptions": {"AirflowTaskTimeout": AirflowTaskTimeout},
    }  # fmt: skip
    annotation = load(monkeypatch, FILE, names).SendAgain()
    assert annotation.annotate_any() is None  # or one of this and DiskGuard would be ignored
    around = annotation.annotate(object())
    assert list(around) == ["@apply_async"]  # what Celery puts around the method of that name
    return around["@apply_async"]


def test_what_is_sent(again: Any) -> None:
    """Arguments and result pass through."""
    send = again(lambda task, *args, **kwargs: (task, args, kwargs))
    assert send("task", 1, queue="q") == ("task", (1,), {"queue": "q"})


@pytest.mark.parametrize("error", [ConnectionResetError("closed"), AttributeError("closed")])
def test_what_is_not_sent(again: Any, caplog: Any, error: Exception) -> None:
    """It ends in what Airflow tries again, and the log has the reason."""

    def apply_async(_task: Any) -> None:
        raise error

    with pytest.raises(AirflowTaskTimeout) as raised:
        again(apply_async)("task")
    assert raised.value.__cause__ is error
    assert str(raised.value) == f"not sent: {error!r}"
    assert f"a task was not sent, and is sent again: {error!r}" in caplog.text


@pytest.mark.parametrize("end", [AirflowTaskTimeout("a second"), SystemExit(0)])
def test_what_is_no_error(again: Any, end: BaseException) -> None:
    """A timeout stays what it is, and a scheduler that is told to stop does."""

    def apply_async(_task: Any) -> None:
        raise end

    with pytest.raises(type(end)) as raised:
        again(apply_async)("task")
    assert raised.value is end
