"""Whoever owns the schema needs no more rights than that."""

from __future__ import annotations

import psycopg

from pgqueue import schema


def test_an_owner_who_may_not_create_roles_migrates_where_they_are(dsn: str, empty_dsn: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(empty_dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("drop role if exists test_owner_of_pgqueue")
        conn.execute("create role test_owner_of_pgqueue login")
        conn.execute(f'alter database "{name}" owner to test_owner_of_pgqueue'.encode())
    owned = psycopg.conninfo.make_conninfo(empty_dsn, user="test_owner_of_pgqueue")
    assert schema.migrate(owned).applied
    assert not schema.migrate(owned).applied
