"""Fresh idempotency keys, so that requests are not taken for repetitions, and no long waits."""

from __future__ import annotations

import uuid
from typing import Any

import schemathesis
from schemathesis import GenerationMode


@schemathesis.hook
def before_call(_context: object, case: Any, **_kwargs: object) -> None:  # noqa: ANN401 - schemathesis' case
    headers = case.headers
    if not headers or case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    if "Prefer" in headers:
        headers["Prefer"] = "wait=0"
