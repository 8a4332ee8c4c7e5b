"""Running what is due, and asserting what was submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import msgspec

from pgqueue import calls
from pgqueue.models import TaskFilter, TaskRecord, encode_payload
from pgqueue.testing.targets import Target

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from pgqueue import sync
    from pgqueue.queue_service import QueueService

__all__ = ["assert_submitted", "drain"]

PAGE = 1000
SHOWN = 20
FIELDS = frozenset(TaskRecord.__struct_fields__) - {"payload", "task_type"}


@overload
def drain(queue_service: QueueService, **options: Any) -> Coroutine[Any, Any, None]: ...  # noqa: ANN401 - as drain's


@overload
def drain(queue_service: sync.QueueService, **options: Any) -> None: ...  # noqa: ANN401 - as drain's


def drain(queue_service: Any, **options: Any) -> Any:
    """Run a worker until nothing is due and nothing runs; to be awaited where the service is async.

    What falls due later (a retry, run_at) stays: travel there, and drain again. Options: `queues` maps names to slots.
    """
    return queue_service.drain(**options)


def assert_submitted(
    where: object,
    task_type: str,
    payload: object = msgspec.UNSET,
    *,
    times: int | None = None,
    **expected: Any,  # noqa: ANN401 - values of TaskRecord's fields
) -> list[TaskRecord]:
    """Assert that tasks of this type were submitted, live or ended, and return them, newest first.

    `where` is a DSN, a Database, or a blocking connection, whose open transaction is looked at too. `payload` is
    compared as JSON; `expected` names fields of TaskRecord, e.g. queue_name="upload", priority=10. At least one task
    must match, or exactly `times`. Raises AssertionError that tells what was submitted instead.
    """
    unknown = expected.keys() - FIELDS
    if unknown:
        msg = f"a task has no field {', '.join(sorted(unknown))}; choose from {', '.join(sorted(FIELDS))}"
        raise TypeError(msg)
    wanted = dict(expected)
    if payload is not msgspec.UNSET:
        wanted["payload"] = msgspec.json.decode(encode_payload(payload))
    with Target(where).opened() as target:
        tasks = _all_of(target, task_type)
        found = [task for task in tasks if all(getattr(task, name) == value for name, value in wanted.items())]
        if len(found) == times or (times is None and found):
            return found
        raise AssertionError(_report(target, task_type, wanted, (len(found), times), tasks))


def _all_of(target: Target, task_type: str) -> list[TaskRecord]:
    tasks: list[TaskRecord] = []
    page = target.run(calls.list_tasks(TaskFilter(task_type=task_type, page_size=PAGE)))
    while page:
        tasks += page
        page = target.run(
            calls.list_tasks(TaskFilter(task_type=task_type, page_size=PAGE, before_id=tasks[-1].task_id))
        )
    return tasks


def _report(
    target: Target, task_type: str, wanted: Mapping[str, Any], counts: tuple[int, int | None], tasks: list[TaskRecord]
) -> str:
    found, times = counts
    fields = "".join(f", {name}={value!r}" for name, value in wanted.items())
    expected = "at least one" if times is None else str(times)
    lines = [f"expected {expected} of {task_type!r}{fields}; found {found}"]
    if tasks:
        lines.append(f"{len(tasks)} of this type were submitted, those that differ least first:")
        compared = sorted(((task, [*_differences(task, wanted)]) for task in tasks), key=lambda pair: len(pair[1]))
        return "\n".join(lines + [_compared(*pair) for pair in compared[:SHOWN]])
    others = target.run(calls.list_tasks(TaskFilter(page_size=SHOWN)))
    lines.append("none of this type was submitted; newest of all:" if others else "no task was submitted at all")
    return "\n".join(lines + [_line(task) for task in others])


def _line(task: TaskRecord) -> str:
    fields = f"payload={task.payload!r}, queue_name={task.queue_name!r}"
    return f"  task {task.task_id} {task.task_type!r} ({task.status}): {fields}"


def _compared(task: TaskRecord, differences: list[str]) -> str:
    """Tell where a task differs from what was expected, one line a place."""
    lines = [f"  task {task.task_id} ({task.status}){':' if differences else ' is as expected'}"]
    return "\n".join(lines + [f"    {difference}" for difference in differences])


def _differences(task: TaskRecord, wanted: Mapping[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        yield from _between(name, getattr(task, name), value)


def _between(path: str, found: object, wanted: object) -> Iterator[str]:
    """Yield the innermost places where two values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*wanted, *found]):
            yield from _between(f"{path}.{key}", found.get(key, ABSENT), wanted.get(key, ABSENT))
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _between(f"{path}[{index}]", one, other)
    elif found != wanted:
        yield f"{path} is {found!r}, not {wanted!r}"


class _Absent:
    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()
