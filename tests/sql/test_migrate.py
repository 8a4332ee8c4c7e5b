"""What the migrator promises."""

from __future__ import annotations

from pgqueue import schema


def test_a_fresh_database_gets_everything(empty_dsn: str) -> None:
    report = schema.migrate(empty_dsn)
    assert "structure/0001_queues_and_workers.sql" in report.applied
