"""What the document says in words: formats and rules that JSON Schema does not have, and what DELETE leaves."""

from __future__ import annotations

import json
import uuid
import zoneinfo
from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import UseAfterFree

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
MACROS = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"]
LAST_ROW = 10_000


def field(first: int, last: int, names: tuple[str, ...] | list[str] = ()) -> st.SearchStrategy[str]:
    """Return one field of a cron expression: *, steps, numbers or names, ranges, and lists of them."""
    number, step = st.integers(first, last), st.integers(1, last)
    span = st.tuples(number, number).map(lambda ends: "{}-{}".format(*sorted(ends)))
    stepped = st.tuples(span, step).map(lambda parts: "{}/{}".format(*parts))
    one = st.one_of(number.map(str), span, stepped, *([st.sampled_from(names)] if names else []))
    several = st.lists(one, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), step.map(lambda width: f"*/{width}"), several)


@st.composite
def cron(draw: st.DrawFn) -> str:
    """Draw an expression that names some moment: no day is asked for that a month may lack."""
    five = [field(0, 59), field(0, 23), field(1, 28), field(1, 12, MONTHS), field(0, 6, DAYS)]
    second = draw(st.lists(field(0, 59), max_size=1))
    return " ".join([*(draw(part) for part in five), *second])


def moments(first: int, last: int) -> st.SearchStrategy[str]:
    """Return moments of some years, as RFC 3339 has them."""
    return st.datetimes(datetime(first, 1, 1), datetime(last, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
        lambda moment: moment.isoformat().replace("+00:00", "Z")
    )


schemathesis.openapi.format("cron", st.one_of(st.sampled_from(MACROS), cron()))
schemathesis.openapi.format("time-zone", st.sampled_from(sorted(zoneinfo.available_timezones())))
schemathesis.openapi.format("date-time", st.one_of(moments(1970, 2999), moments(1, 9999)))


@schemathesis.hook
def before_call(_context: object, case: Any, **_kwargs: object) -> None:  # noqa: ANN401 - schemathesis' case
    """Let valid data be valid in what no schema can say, repeat nothing, and wait for nothing long.

    In sequences there is the queue that is named: they would not come beyond their first step.
    """
    is_positive = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if case.operation.path.endswith("/events"):
        case.query = {"wait": 0} | (case.query or {}) | ({"wait": 0} if is_positive else {})
    if not is_positive:
        return
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if case.headers and "Prefer" in case.headers:
        case.headers["Prefer"] = "wait=0"
    if case.query:
        case.query = within_reach(case.query)
    if isinstance(case.body, dict):
        case.body = in_order(without_nul(case.body))
        if case.meta.phase.name is TestPhase.STATEFUL and "queue_name" in case.body:
            case.body["queue_name"] = "default"


def within_reach(query: dict[str, Any]) -> dict[str, Any]:
    """Let a page lie before row 10,000, and a window end after it starts."""
    if "page" in query:
        query["page"] = min(int(query["page"]), LAST_ROW // int(query.get("page_size", 20)))
    if "start_time" in query:
        window = (query["start_time"], query.get("end_time", "9999-01-01T00:00:00Z"))
        query["start_time"], query["end_time"] = sorted(window, key=datetime.fromisoformat)
    return query


def without_nul(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Take NUL, which PostgreSQL cannot store, out of all texts and keys."""
    if isinstance(value, dict):
        return {without_nul(key): without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nul(item) for item in value]
    return value.replace("\x00", "") if isinstance(value, str) else value


def in_order(body: dict[str, Any]) -> dict[str, Any]:
    """Let a schedule end after it starts, also after one of both was changed."""
    for name, moment in (("starts_at", "2000-01-01T00:00:00Z"), ("ends_at", "2100-01-01T00:00:00Z")):
        if body.get(name) is not None:
            body[name] = moment
    return body


gone: Any = CHECKS.get_one("use_after_free")
CHECKS.unregister("use_after_free")


@schemathesis.check
def use_after_free(ctx: Any, response: Any, case: Any) -> bool | None:  # noqa: ANN401 - schemathesis' own
    """What was deleted is gone; where the document links the answer of DELETE to a read, it is read as cancelled."""
    try:
        answer: bool | None = gone(ctx, response, case)
    except UseAfterFree as failure:
        if not is_kept(case, failure.operation):
            raise
        found = json.loads(response.content or b"{}")
        if found.get("status", "cancelled") != "cancelled" and not was_retried(ctx, failure.deleted_case_id):
            raise
        return None
    return answer


def is_kept(case: Any, label: str | None) -> bool:  # noqa: ANN401 - schemathesis' case
    """Tell whether a DELETE's answer leads on to a read of the same path."""
    method, _, path = (label or "").partition(" ")
    operations = case.operation.schema.raw_schema["paths"][path]
    links = operations[method.lower()]["responses"].get("200", {}).get("links", {})
    return any(link.get("operationId") == operations["get"]["operationId"] for link in links.values())


def was_retried(ctx: Any, deleted_case_id: str | None) -> bool:  # noqa: ANN401 - schemathesis' own
    """Tell whether something was asked to start again after it was cancelled."""
    after = False
    for case in ctx.internals.find_all_cases():
        if after and case.operation.path.endswith("/retry"):
            return True
        after = after or case.id == deleted_case_id
    return False
