"""Bad input is refused where it comes in, by path and value; bad rows never break a reader."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import (
    InvalidInput,
    PgqueueError,
    QueueNotFound,
    QueueService,
    RetryManager,
    StateService,
    TaskFilter,
    TaskNotFound,
    TaskRequest,
    sync,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services.conftest import Engine

HUGE = 10**30


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


PAYLOADS: list[tuple[object, str]] = [
    ({"a": ["x", "b\x00c"]}, r"payload\.a\[1\] is 'b\\x00c': PostgreSQL cannot store the NUL"),
    ({"a\x00": 1}, r"the key 'a\\x00' of payload"),
    ({"a": {"b": math.nan}}, r"payload\.a\.b is nan"),
    ({"a": [math.inf]}, r"payload\.a\[0\] is inf"),
    ({"a": -math.inf}, r"payload\.a is -inf"),
    ({"a": "\ud800"}, r"payload\.a is '\\ud800': lone surrogates"),
    ({"a": {"\udfff": 1}}, r"the key '\\udfff' of payload\.a"),
    ({"a": {1: 2}}, r"the key 1 of payload\.a is no text"),
    ({None: 2}, r"the key None of payload is no text"),
    ({math.nan: 2}, r"the key nan of payload is no text"),
    ({"a": object()}, r"payload\.a is <object object"),
    ({"a": nested(5000)}, r"payload cannot be written as JSON: .*recursion"),
    ({"a": "x" * 10_000_000}, r"payload is 10000008 bytes of JSON; at most 1048576 \(1 MiB\)"),
]


@pytest.mark.parametrize(("payload", "message"), PAYLOADS, ids=[message[:30] for _, message in PAYLOADS])
async def test_a_payload_that_cannot_be_stored_is_refused_with_its_path(
    service: QueueService, payload: object, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        await service.submit_task(TaskRequest(task_type="t", payload=payload))
    assert caught.value.hint
    with pytest.raises(InvalidInput, match=message):
        await service.submit_tasks([TaskRequest(task_type="t", payload=payload)])


@pytest.mark.parametrize(
    "payload",
    [
        None,
        0,
        "null",
        [None, "1", "2"],
        {"null": None, "1": "a"},
        {"a": 2**200},
        {"a": -1.5e-30},
        nested(100),
        "☃\u2028",
    ],
    ids=repr,
)
async def test_a_payload_that_only_looks_odd_comes_back_equal(service: QueueService, payload: object) -> None:
    task = await service.submit_task(TaskRequest(task_type="t", payload=payload))
    assert (await task.refresh()).payload == payload


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"task_type": ""}, "tasks_task_type"),
    ({"task_type": "x" * 300}, "tasks_task_type"),
    ({"task_type": 5}, "task_type must be text, not 5"),
    ({"task_type": "a\x00b"}, r"task_type is 'a\\x00b': PostgreSQL cannot store the NUL"),
    ({"task_type": "\ud800"}, "task_type is '.*lone surrogates"),
    ({"queue_name": None}, "queue_name must be text, not None"),
    ({"unique_key": ""}, "tasks_unique_key"),
    ({"unique_key": "x" * 501}, "tasks_unique_key"),
    ({"unique_key": 7}, "unique_key must be text, not 7"),
    ({"user_id": "x" * 300}, "tasks_user_id"),
    ({"project_id": b"x"}, "project_id must be text, not b'x'"),
    ({"priority": 5.0}, r"priority must be a whole number, not 5\.0"),
    ({"priority": True}, "priority must be a whole number, not True"),
    ({"priority": 40_000}, "priority must be between -32768 and 32767, not 40000"),
    ({"priority": HUGE}, "priority must be between"),
    ({"max_retries": -1}, "max_retries must be between 0 and 10000, not -1"),
    ({"max_retries": "3"}, "max_retries must be a whole number, not '3'"),
    ({"timeout": -5}, "timeout must be between 1 and 31536000, not -5"),
    ({"timeout": 0}, "timeout must be between 1"),
    ({"timeout": 1.5}, r"timeout must be a whole number, not 1\.5"),
    ({"run_at": datetime(2030, 1, 1)}, "run_at must have a time zone"),  # noqa: DTZ001 - that is the mistake
    ({"run_at": "tomorrow"}, "run_at must be a datetime, not 'tomorrow'"),
    ({"run_at": datetime(9000, 1, 1, tzinfo=UTC)}, "tasks_run_at"),
    ({"metadata": {"a": "x" * 70_000}}, "tasks_metadata"),
    ({"metadata": {"a": math.nan}}, r"metadata\.a is nan"),
    ({"on_conflict": "ignore"}, "on_conflict must be return, raise or replace"),
]


@pytest.mark.parametrize(("fields", "message"), FIELDS, ids=[f"{f} {m}"[:60] for f, m in FIELDS])
def test_a_field_that_cannot_be_is_refused_by_name(
    blocking: sync.QueueService, fields: dict[str, Any], message: str
) -> None:
    request = TaskRequest(**({"task_type": "t"} | fields))
    with pytest.raises(InvalidInput, match=message):
        blocking.submit_task(request)
    with pytest.raises(InvalidInput, match=message):
        blocking.submit_tasks([request])
    assert blocking.list_tasks()[1] == 0


def test_a_dict_is_no_request(blocking: sync.QueueService) -> None:
    wrong: Any = {"task_type": "t"}
    with pytest.raises(InvalidInput, match="takes a TaskRequest, not dict"):
        blocking.submit_task(wrong)


async def test_an_unknown_queue_is_refused_with_what_to_do(service: QueueService) -> None:
    for name in ("nowhere", "x" * 300):
        with pytest.raises(QueueNotFound) as caught:
            await service.submit_task(TaskRequest(task_type="t", queue_name=name))
        assert name in caught.value.message
        assert "create_queue" in str(caught.value.hint)
    for operation in (service.pause_queue, service.resume_queue, service.delete_queue, service.get_queue_stats):
        with pytest.raises(QueueNotFound):
            await operation("nowhere")


IDS: list[tuple[Any, type[PgqueueError]]] = [
    (0, TaskNotFound),
    (-1, TaskNotFound),
    (2**63 - 1, TaskNotFound),
    (2**63, InvalidInput),
    (HUGE, InvalidInput),
    (1.5, InvalidInput),
    ("7", InvalidInput),
    (None, InvalidInput),
    (True, InvalidInput),
]


@pytest.mark.parametrize(("task_id", "kind"), IDS, ids=[repr(task_id) for task_id, _ in IDS])
async def test_an_id_that_names_no_task_is_refused_everywhere(
    service: QueueService,
    state: StateService,
    task_id: Any,  # noqa: ANN401 - any value
    kind: type[PgqueueError],
) -> None:
    operations: list[Callable[[], Any]] = [
        lambda: service.get_task(task_id),
        lambda: service.cancel_task(task_id),
        lambda: service.retry_task(task_id),
        lambda: service.wait_for(task_id, timeout=5),
        lambda: service.why_waiting(task_id),
        lambda: state.get_progress(task_id),
        lambda: state.update_progress(task_id, 5),
        lambda: state.set_task_result(task_id, 5),
        lambda: state.get_task_result(task_id),
        lambda: state.subscribe_progress(task_id, print),
        lambda: anext(aiter(state.follow_progress(task_id))),
        lambda: RetryManager(service.db).retry_task(task_id),
    ]
    for operation in operations:
        with pytest.raises(kind):
            await operation()


async def test_filters_pages_and_windows_are_checked(service: QueueService, state: StateService) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"page": 0}, "page must be between 1"),
        ({"page": HUGE}, "page must be between 1"),
        ({"page": 2**31 - 1, "page_size": 1000}, "page_size must be between"),
        ({"page_size": 0}, "page_size must be between 1 and 1000, not 0"),
        ({"page_size": 1001}, "page_size"),
        ({"page": 1.0}, "page must be a whole number"),
        ({"status": "done"}, "no status 'done'"),
        ({"queue_name": "\x00"}, "queue_name is"),
        ({"created_from": datetime(2030, 1, 1)}, "created_from must have a time zone"),  # noqa: DTZ001 - the mistake
        ({"before_id": 2**63}, "task_id must be between"),
    ]
    for fields, message in bad:
        with pytest.raises(InvalidInput, match=message):
            await service.list_tasks(TaskFilter(**fields))
    now = datetime.now(UTC)
    with pytest.raises(InvalidInput, match="start must have a time zone"):
        await state.get_task_statistics(datetime(2030, 1, 1), now)  # noqa: DTZ001 - the mistake
    with pytest.raises(InvalidInput):
        await state.get_task_statistics(now, now - timedelta(hours=1))


async def test_progress_results_and_queues_are_checked(
    service: QueueService, state: StateService, engine: Engine
) -> None:
    task = await service.submit_task(TaskRequest(task_type="t"))
    engine.claim()
    number: Any
    for number in (-1, 101, HUGE, 5.5, "5"):
        with pytest.raises(InvalidInput, match="progress must be"):
            await state.update_progress(task.task_id, number)
    for completed, total in ((-1, 5), (6, 5), (0, 0), (1, HUGE)):
        with pytest.raises(InvalidInput, match="_steps must be"):
            await state.update_progress_with_steps(task.task_id, "step", completed, total)
    with pytest.raises(InvalidInput, match="message is"):
        await state.update_progress(task.task_id, 5, "\x00")
    with pytest.raises(InvalidInput, match=r"result\.a is nan"):
        await state.set_task_result(task.task_id, {"a": math.nan})
    for fields in ({"concurrency": -1}, {"capacity": HUGE}, {"max_crashes": 2.5}):
        with pytest.raises(InvalidInput):
            await service.create_queue("q", **fields)
    for name in ("", "x" * 300, "a\x00", 5):
        with pytest.raises(InvalidInput):
            await service.create_queue(name)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("timeout", [-1, math.nan, "5", True])
async def test_a_wait_of_nonsense_is_refused(service: QueueService, blocking: sync.QueueService, timeout: Any) -> None:  # noqa: ANN401, ASYNC109 - any value
    task = await service.submit_task(TaskRequest(task_type="t"))
    with pytest.raises(InvalidInput, match="timeout must be None or seconds"):
        await task.wait(timeout)
    with pytest.raises(InvalidInput, match="timeout must be None or seconds"):
        blocking.wait_for(task.task_id, timeout)


@pytest.mark.parametrize("age", [timedelta(seconds=-1), None, 30], ids=repr)
async def test_an_age_of_nonsense_is_refused(service: QueueService, sync_db: sync.Database, age: Any) -> None:  # noqa: ANN401 - any value
    with pytest.raises(InvalidInput, match="must be a timedelta that is not negative"):
        await RetryManager(service.db).cleanup_old_tasks(age)
    with pytest.raises(InvalidInput, match="must be a timedelta that is not negative"):
        sync.RetryManager(sync_db).cleanup_old_tasks(age)


async def test_rows_that_python_cannot_hold_break_no_reader(
    service: QueueService, state: StateService, blocking: sync.QueueService, engine: Engine
) -> None:
    digits, deep = "1" * 5001, "[" * 3000 + "]" * 3000
    insert = (
        "insert into pgqueue.tasks (task_type, payload, created_at, metadata) "
        "values ('t', %s::jsonb, %s, %s::jsonb) returning id"
    )
    long = engine.value(insert, digits, "now", deep)
    nest = engine.value(insert, deep, "infinity", None)
    old = engine.value(insert, '{"a": 1e400}', "4000-01-01 BC", digits)
    fine = engine.value(insert, "{}", "294000-01-01", None)
    assert (await service.get_task(long)).payload == digits
    assert (await service.get_task(nest)).payload == deep
    assert (await service.get_task(nest)).created_at is None
    assert (await service.get_task(old)).payload == {"a": 10**400}
    tasks, total = await service.list_tasks()
    assert ([task.task_id for task in tasks], total) == ([fine, old, nest, long], 4)
    assert len(blocking.list_tasks()[0]) == 4
    for task_id in (long, nest, old, fine):
        assert (await state.get_progress(task_id)).status == "pending"
        await service.cancel_task(task_id)
    assert len(await RetryManager(service.db).get_retryable_tasks()) == 4
