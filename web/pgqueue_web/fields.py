"""What fields may hold: the types of bodies and query strings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = [
    "PLAIN",
    "STORABLE",
    "Bigint",
    "Body",
    "Cron",
    "Id200",
    "Name",
    "Reason",
    "Seconds",
    "UniqueKey",
    "Zone",
]

PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""Names without control characters."""
STORABLE = r"^[^\x00]*$"
"""Text that PostgreSQL can store."""

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]
Id200 = Annotated[str, Meta(max_length=200, pattern=STORABLE)]
UniqueKey = Annotated[str, Meta(min_length=1, max_length=500, pattern=STORABLE)]
Reason = Annotated[str, Meta(max_length=4000, pattern=STORABLE)]
Bigint = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Cron = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=PLAIN,
        description="minute, hour, day of month, month, day of week; a sixth field is the second; or @daily …",
        examples=["0 * * * *"],
    ),
]
Zone = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_+/-]+$", description="an IANA name", examples=["UTC"])
]
Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A body or query string that refuses what it does not know."""
