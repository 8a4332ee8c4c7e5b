"""What fields may hold: the types of bodies and query strings."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = [
    "PLAIN",
    "STORABLE",
    "Bigint",
    "Body",
    "Cron",
    "Due",
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
Reason = Annotated[str, Meta(max_length=1000, pattern=STORABLE)]
Bigint = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Cron = Annotated[
    str,
    Meta(
        description="minute, hour, day of month, month, day of week; a sixth field is the second; or @daily …",
        examples=["0 * * * *"],
        extra_json_schema={"format": "cron"},
    ),
]
"""Which expressions there are is for pgqueue.cron to say: they are checked there."""
Zone = Annotated[
    str,
    Meta(
        description="a name of the IANA time zone database",
        examples=["UTC"],
        extra_json_schema={"format": "time-zone"},
    ),
]
Due = Annotated[datetime, Meta(tz=True, extra_json_schema={"pattern": "^(19[7-9]|2[0-9]{2})[0-9]-"})]
"""When something is to happen: in the years 1970 to 2999, as the database checks."""
Seconds = Annotated[int, Meta(ge=1, le=31_536_000)]


class Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A body or query string that refuses what it does not know."""
