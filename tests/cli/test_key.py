"""Keys of the HTTP interface from the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    from tests.cli.conftest import Cli

KEY = re.compile(r"pgq_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


def test_a_key_is_printed_once_and_its_secret_is_kept_nowhere(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    made = cli(
        "key", "create", "reports", "--scope", "read", "--scope", "submit", "--queue", "slow", "--rate-limit", 60
    )
    assert made.code == 0
    (key,) = made.lines
    assert KEY.fullmatch(key)
    assert "not shown again" in made.err
    listed = cli("key", "list")
    assert key[:17] in listed.out
    assert key[17:] not in listed.out + str(conn.execute("select k::text from pgqueue.api_keys k").fetchall())
    for word in ("reports", "read submit", "slow", "60/min", "never", "live"):
        assert word in listed.out


def test_a_key_is_revoked_by_name_number_or_what_the_list_shows(cli: Cli) -> None:
    keys = [cli("-o", "json", "key", "create", name, "--scope", "read").json[0] for name in ("a", "b", "c")]
    selector = keys[2]["key"].split("_")[1]
    for which in ("a", keys[1]["id"], selector):
        assert cli("key", "revoke", which).code == 0
    assert {key["name"] for key in cli("-o", "json", "key", "list").json if key["revoked_at"] is None} == set()
    assert cli("key", "create", "a", "--scope", "admin").code == 0


def test_what_cannot_be_is_refused_with_what_to_do(cli: Cli) -> None:
    assert cli("key", "create", "a").code == 2
    assert cli("key", "create", "a", "--scope", "write").code == 2
    cli("key", "create", "a", "--scope", "read", "--expires-in", "90d")
    taken = cli("key", "create", "a", "--scope", "read")
    assert (taken.code, "there is a key named 'a' already" in taken.err) == (2, True)
    missing = cli("key", "revoke", "nobody")
    assert (missing.code, "pgqueue key list" in missing.err) == (2, True)
