"""What may be stored: how payloads and results become JSON, and what is refused, by path and value."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from pgqueue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MOST_ID", "check_number", "check_span", "check_text", "check_time", "encode_payload", "encode_result"]

MOST_ID = 2**63 - 1
MOST_BYTES = 1_048_576
MOST_DEPTH = 500
LONGEST = timedelta(days=365_000)
PLAIN_HINT = "use dicts, lists, text, numbers, booleans and None"
NUMBER_AS_KEY = re.compile(rb'"(?<=[{,]")(?:-?[0-9]|nan|inf|-inf)')
"""Begins with a plain quote, so that the search leaps from one to the next: six times as fast through a kilobyte."""


def encode_payload(value: object, name: str = "payload") -> str:
    """Turn a struct, dataclass, dict or other JSON-like value into JSON text that PostgreSQL can store.

    Raises InvalidInput, naming path and value, for NaN and infinities, NUL characters, lone surrogates, keys
    that are no text, values that are no JSON, and more than 1 MiB.
    """
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        _refuse_leaves(value, name)
        msg = f"{name} cannot be written as JSON: {error}"
        raise InvalidInput(msg, detail={"field": name}, hint=PLAIN_HINT) from error
    if len(encoded) > MOST_BYTES:
        msg = f"{name} is {len(encoded)} bytes of JSON; at most {MOST_BYTES} (1 MiB) are allowed"
        hint = "store large data elsewhere and submit where it is"
        raise InvalidInput(msg, detail={"field": name, "bytes": len(encoded)}, hint=hint)
    if is_suspect(encoded):
        _refuse_leaves(value, name)
    return encoded.decode()


def is_suspect(encoded: bytes) -> bool:
    """Whether JSON may hold what must be refused: NaN is written as null, and numbers as keys start with a digit."""
    return b"null" in encoded or b"\\u0000" in encoded or NUMBER_AS_KEY.search(encoded) is not None


def encode_result(value: object) -> tuple[str, str | None]:
    """Turn a handler's result into JSON text; where that fails, into a note in its place, which is also returned."""
    try:
        return encode_payload(value, "result"), None
    except InvalidInput as error:
        seen = _shown(value, 1000).encode("utf-8", "replace").decode().replace("\x00", "")
        note = {"unwritable_result": error.message, "repr": seen}
        return msgspec.json.encode(note).decode(), error.message


def _refuse_leaves(value: object, name: str) -> None:
    """Find, by its path, what the encoder refuses or passes over silently: NaN becomes null, 1 as a key "1"."""
    try:
        plain = msgspec.to_builtins(value, builtin_types=(float,))
    except (TypeError, ValueError, RecursionError):
        plain = value
    for where, leaf, is_key in _leaves(plain, name, 0):
        trouble = _trouble_with_key(leaf) if is_key else _trouble_with(leaf)
        if trouble is not None:
            reason, hint = trouble
            raise InvalidInput(f"{where} {reason}", detail={"field": where, "value": _shown(leaf)}, hint=hint)


def _trouble_with(leaf: object) -> tuple[str, str] | None:
    """Why a value cannot be stored, and what to do; None where it can."""
    if isinstance(leaf, float) and not math.isfinite(leaf):
        return f"is {leaf!r}, which JSON cannot hold", "use None, or a text such as 'NaN'"
    if isinstance(leaf, str) and "\x00" in leaf:
        hint = "remove it, or encode the bytes, for instance as base64"
        return f"is {_shown(leaf)}: PostgreSQL cannot store the NUL character (\\u0000)", hint
    if isinstance(leaf, str) and not _is_text(leaf):
        return f"is {_shown(leaf)}: lone surrogates are no characters", "decode bytes with errors='replace'"
    if leaf is None or isinstance(leaf, str | int | float):
        return None
    try:
        msgspec.json.encode(leaf)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return f"is {_shown(leaf)}, which is no JSON: {error}", PLAIN_HINT
    return None


def _trouble_with_key(key: object) -> tuple[str, str] | None:
    return _trouble_with(key) if isinstance(key, str) else ("is no text, as JSON's keys are", "use str(key)")


def _leaves(value: object, path: str, depth: int) -> Iterator[tuple[str, object, bool]]:
    """Yield path, value and whether it is a key, of everything that holds nothing else and is not too deep to walk."""
    if depth > MOST_DEPTH:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"the key {_shown(key)} of {path}", key, True
            yield from _leaves(item, f"{path}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]", depth + 1)
    else:
        yield path, value, False


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object, most: int = 80) -> str:
    """A value as an error shows it; a user's __repr__ may raise anything."""
    try:
        text = ascii(value)
    except Exception:  # noqa: BLE001 - see above
        text = object.__repr__(value)
    return text if len(text) <= most else text[:most] + "…"


def check_text(value: object, name: str, *, optional: bool = False) -> None:
    """Raise InvalidInput, naming field and value, for what is no text that PostgreSQL can store."""
    if value is None and optional:
        return
    trouble = _trouble_with(value) if isinstance(value, str) else (f"must be text, not {_shown(value)}", "give a str")
    if trouble is not None:
        reason, hint = trouble
        raise InvalidInput(f"{name} {reason}", detail={"field": name, "value": _shown(value)}, hint=hint)


def check_number(value: object, name: str, least: int, most: int) -> None:
    """Raise InvalidInput, naming field and value, for what is no whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool):
        reason, hint = f"must be a whole number, not {_shown(value)}", f"give an int from {least} to {most}"
    elif not least <= value <= most:
        reason, hint = f"must be between {least} and {most}, not {_shown(value)}", "correct the number"
    else:
        return
    raise InvalidInput(f"{name} {reason}", detail={"field": name, "value": _shown(value)}, hint=hint)


def check_time(value: object, name: str) -> None:
    """Raise InvalidInput, naming field and value, for what is no datetime with a time zone; None is one."""
    if value is None:
        return
    if not isinstance(value, datetime):
        reason, hint = f"must be a datetime, not {_shown(value)}", "use datetime.now(timezone.utc) + timedelta(…)"
    elif value.tzinfo is None:
        reason, hint = f"must have a time zone, which {value} has not", "use datetime.now(timezone.utc) + timedelta(…)"
    else:
        return
    raise InvalidInput(f"{name} {reason}", detail={"field": name, "value": _shown(value)}, hint=hint)


def check_span(value: object, name: str, *, optional: bool = False) -> None:
    """Raise InvalidInput, naming field and value, for what is no timedelta from 0 to 365,000 days."""
    if value is None and optional:
        return
    if not isinstance(value, timedelta):
        reason, hint = f"must be a timedelta, not {_shown(value)}", "for instance timedelta(days=30)"
    elif not timedelta(0) <= value <= LONGEST:
        reason, hint = f"must lie between 0 and 365,000 days, not {value}", "for instance timedelta(days=30)"
    else:
        return
    raise InvalidInput(f"{name} {reason}", detail={"field": name, "value": _shown(value)}, hint=hint)
