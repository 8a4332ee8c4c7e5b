"""`pgqueue stats`: what finished, as a table and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

    from tests.cli.conftest import Cli


@pytest.fixture
def history(conn: psycopg.Connection[Any]) -> None:
    """Three tasks that ended, one of them badly, in two queues."""
    conn.execute("select pgqueue.create_queue('parcels')")
    conn.execute("select pgqueue.submit('ship', p_queue_name => 'parcels')")
    conn.execute("select pgqueue.submit('bill'), pgqueue.submit('bill')")
    conn.execute("select pgqueue.register_worker('here', 1, '{default,parcels}')")
    for claim_no, queue in enumerate(("default", "parcels")):
        conn.execute("select count(*) from pgqueue.claim(1, %s, 10, %s)", (queue, claim_no))
    failure = '{"outcome": "failed", "permanent": true}'
    finish = "select pgqueue.finish('{1,2,3}', '{1,1,1}', '{1000,2000,3000}', null, %s::jsonb[])"
    conn.execute(finish, ([None, None, failure],))


@pytest.mark.usefixtures("history")
def test_a_table_of_steps(cli: Cli) -> None:
    shown = cli("stats", "--since", "1h", "--by", "queue", "--step", "day")
    assert shown.code == 0
    assert shown.lines[0].split()[:3] == ["FROM", "QUEUE", "COMPLETED"]
    filled = [line.split() for line in shown.lines[1:] if any(bar in line for bar in "▄█")]
    rows = {row[1]: row[3:6] for row in filled}
    assert rows == {"default": ["1", "1", "0"], "parcels": ["1", "0", "0"]}
    assert "3 tasks finished, 66.7 % of them completed" in shown.err


@pytest.mark.usefixtures("history")
def test_json_of_one_queue(cli: Cli) -> None:
    points = cli("stats", "--since", "1h", "--queue", "parcels", "--type", "ship", "-o", "json").json
    assert len(points) in (60, 61)
    assert sum(point["completed"] for point in points) == 1
    assert {"bucket", "total", "p95_duration_ms", "p95_wait_ms"} <= set(points[0])


def test_an_impossible_series_is_a_mistake_of_usage(cli: Cli) -> None:
    refused = cli("stats", "--since", "300d", "--step", "minute")
    assert (refused.code, refused.out) == (2, "")
    assert "longer step" in refused.err
