"""All rows, family by family. A row of another family is plugged in here: a module with ROWS."""

from __future__ import annotations

from benchmarks.rows import claim, drain, history, http, latency, progress, schedule, submit, sustained

FAMILIES = (submit, drain, sustained, latency, progress, claim, schedule, http, history)
ROWS = {row.name: row for family in FAMILIES for row in family.ROWS}
