"""Logging: one event one line, each with its task, and a copy for the task's own log."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import log
from pgqueue.log import Sink, configure, task_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Event = tuple[str, str, Mapping[str, Any]]


@dataclass
class Task:
    """What the log knows of a task."""

    sink: Sink
    task_id: int = 7
    attempt: int = 2
    task_type: str = "resize"
    queue: str = "images"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def sink() -> Iterator[list[Event]]:
    """What the current task's sink was handed."""
    events: list[Event] = []

    def take(level: str, message: str, fields: Mapping[str, Any]) -> None:
        events.append((level, message, fields))

    token = task_fields.set(Task(take))
    yield events
    task_fields.reset(token)


def test_json_has_one_object_a_line_with_the_task(capsys: pytest.CaptureFixture[str], sink: list[Event]) -> None:
    configure("info", "json")
    structlog.get_logger().info("half done", percent=50)
    event = json.loads(capsys.readouterr().err)
    del event["timestamp"]
    assert event == {
        "event": "half done",
        "level": "info",
        "percent": 50,
        "task_id": 7,
        "attempt": 2,
        "task_type": "resize",
        "queue": "images",
    }
    assert sink == [("info", "half done", {"percent": 50})]


def test_outside_of_a_task_no_fields_are_added(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    structlog.get_logger().info("hello")
    assert set(json.loads(capsys.readouterr().err)) == {"event", "level", "timestamp"}


def test_below_the_level_nothing_is_written_or_captured(capsys: pytest.CaptureFixture[str], sink: list[Event]) -> None:
    configure("warning", "console")
    structlog.get_logger().info("quiet")
    assert capsys.readouterr().err == ""
    assert sink == []


def test_a_traceback_reaches_the_sink_without_local_values(
    capsys: pytest.CaptureFixture[str], sink: list[Event]
) -> None:
    configure("info", "console")
    secret = "hunter2"  # noqa: S105 - what must not be shown
    try:
        int(secret[:0] or "x")
    except ValueError:
        structlog.get_logger().exception("it broke")
    (level, message, fields) = sink[0]
    assert (level, message) == ("error", "it broke")
    assert "ValueError: invalid literal" in fields["exception"]
    shown = capsys.readouterr().err
    assert "ValueError: invalid literal" in shown
    assert secret not in shown + fields["exception"]


def test_the_standard_librarys_logging_goes_the_same_way(capsys: pytest.CaptureFixture[str], sink: list[Event]) -> None:
    configure("info", "json")
    logging.getLogger("some.library").warning("%s is slow", "it")
    assert json.loads(capsys.readouterr().err)["logger"] == "some.library"
    assert sink == [("warning", "it is slow", {"logger": "some.library"})]


def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> str:
        configure("info", "console")
        structlog.get_logger().info("hello")
        return capsys.readouterr().err

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in shown()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "\x1b[" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown()


@given(st.text(), st.text(), st.lists(st.text()))
def test_no_text_makes_a_second_line_or_moves_the_cursor(message: str, value: str, nested: list[str]) -> None:
    for render in (log._json, log._console()[1]):
        event = {"event": message, "level": "info", "timestamp": "now", "value": value, "nested": nested}
        prepared = event if render is log._json else log._escape(None, "info", event)
        line = render(None, "info", prepared)
        assert isinstance(line, str)
        assert line.splitlines() in ([line], [])
        assert log.CONTROL.search(line) is None


@given(st.text())
def test_json_keeps_every_text(message: str) -> None:
    assert json.loads(log._json(None, "info", {"event": message}))["event"] == message


def test_a_traceback_on_the_console_cannot_pose_as_an_event() -> None:
    event = log._escape(None, "error", {"exception": "first\nsecond\r\x1b[2Jthird"})
    assert event["exception"] == "    first\n    second\\r\\x1b[2Jthird"
