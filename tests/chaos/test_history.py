"""The checker itself: a sound history passes, and each corruption of it is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.chaos.history import Execution, Finished, History, violations

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2026, 1, 1, tzinfo=UTC)


def execution(task_id: int, attempt: int, outcome: str, start: int, end: int) -> Execution:
    return Execution(task_id, attempt, 1, outcome, START + timedelta(seconds=start), START + timedelta(seconds=end))


def sound() -> History:
    """One that completed, one that failed and was retried, one whose worker was lost, one that was released."""
    return History(
        submitted={1, 2, 3, 4},
        live=set(),
        finished=[
            Finished(1, "completed", 1, 0, 0),
            Finished(2, "completed", 2, 1, 0),
            Finished(3, "failed", 2, 1, 1),
            Finished(4, "completed", 2, 0, 0),
        ],
        executions=[
            execution(1, 1, "completed", 0, 1),
            execution(2, 1, "failed", 0, 1),
            execution(2, 2, "completed", 2, 3),
            execution(3, 1, "lost", 0, 9),
            execution(3, 2, "failed", 10, 11),
            execution(4, 1, "released", 0, 1),
            execution(4, 2, "completed", 1, 2),
        ],
        starts=[(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 2)],
        ends=[(1, 1), (2, 2), (4, 2)],
    )


def test_a_sound_history_holds() -> None:
    assert violations(sound()) == []


def lose(history: History) -> None:
    history.finished.pop(0)


def leave_live(history: History) -> None:
    history.live.add(1)


def double(history: History) -> None:
    history.finished.append(history.finished[0])


def invent(history: History) -> None:
    history.submitted.remove(1)


def forget_an_execution(history: History) -> None:
    history.executions.pop(1)


def end_an_attempt_twice(history: History) -> None:
    history.executions.append(replace(history.executions[3], outcome="completed"))


def overlap(history: History) -> None:
    history.executions[4] = execution(3, 2, "failed", 5, 11)


def miscount_failures(history: History) -> None:
    history.finished[1] = Finished(2, "completed", 2, 0, 0)


def miscount_crashes(history: History) -> None:
    history.finished[2] = Finished(3, "failed", 2, 1, 0)


def finish_what_failed(history: History) -> None:
    history.finished[2] = Finished(3, "completed", 2, 1, 1)


def fail_what_completed(history: History) -> None:
    history.finished[0] = Finished(1, "failed", 1, 0, 0)


def start_a_lease_twice(history: History) -> None:
    history.starts.append((1, 1))


def run_off_the_record(history: History) -> None:
    history.starts.append((1, 2))


def complete_without_running(history: History) -> None:
    history.ends.remove((1, 1))


@pytest.mark.parametrize(
    ("corrupt", "words"),
    [
        (lose, "task 1 was lost"),
        (leave_live, "task 1 is still live"),
        (double, "task 1 ended 2 times"),
        (invent, "never submitted"),
        (forget_an_execution, "task 2 had 2 attempts but executions [2]"),
        (end_an_attempt_twice, "attempt 1 of task 3 ended as lost and as completed"),
        (overlap, "attempts 1 and 2 of task 3 overlap"),
        (miscount_failures, "counts 0 failures"),
        (miscount_crashes, "counts 0 crashes"),
        (finish_what_failed, "is completed but its last attempt failed"),
        (fail_what_completed, "is failed but completed 1 times"),
        (start_a_lease_twice, "attempt 1 of task 1 started 2 times"),
        (run_off_the_record, "attempt 2 of task 1 ran but is not on record"),
        (complete_without_running, "completed without running"),
    ],
)
def test_a_corrupted_history_is_found_out(corrupt: Callable[[History], None], words: str) -> None:
    history = sound()
    corrupt(history)
    assert any(words in problem for problem in violations(history)), violations(history)
