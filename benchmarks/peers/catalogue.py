"""The contenders, and what the harness has to know of each."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """One contender. `pending` is a query that tells whether anything is not finished yet."""

    name: str
    pending: str
    speed: int
    """Tasks a second that a drain at its best manages, roughly: slow ones get fewer."""
    default_speed: int
    """The same as it comes; 0 where it polls every few seconds, and is not measured."""
    setup: str = ""
    """What it is set to at its best."""
    keeps_history: bool = True
    is_own: bool = False
    is_analyzed: bool = True
    """Whether statistics of its tables at work do it good: plans made from those of a nearly empty table may not."""

    def command(self, home: Path) -> list[str]:
        """Return the command line of its adapter; `home` is where the rivals are installed."""
        if self.is_node:
            return ["node", str(HERE / self.name / "adapter.mjs")]
        python = sys.executable if self.is_own else str(home / self.name / "bin" / "python")
        return [python, "-m", f"benchmarks.peers.{self.name}.adapter"]

    def folder(self, home: Path) -> Path:
        """Return the working directory of its adapter."""
        return home / self.name if self.is_node else ROOT

    @property
    def is_node(self) -> bool:
        """Whether it runs on Node."""
        return (HERE / self.name / "package.json").exists()

    def is_there(self, home: Path) -> bool:
        """Whether it is installed."""
        return self.is_own or (home / self.name / ".installed").exists()

    def version(self) -> str:
        """Return the version that its folder pins."""
        for name in ("requirements.txt", "package.json"):
            file = HERE / self.name / name
            if file.exists():
                lines = [line for line in file.read_text(encoding="utf-8").splitlines() if self.name in line]
                return lines[-1].strip().rpartition("==")[2].rpartition(": ")[2].strip('" }') if lines else "?"
        return "this tree"


def _left(table: str, where: str = "true") -> str:
    return f"select exists (select from {table} where {where})"  # noqa: S608 - this module's own text


GRAPHILE = "local queue of 2,000, 2,000 jobs at a time, batched completion"
OWN = Peer("pgqueue", _left("pgqueue.tasks"), 40_000, 3_000, "2,000 slots, batches of up to 500", is_own=True)
BARE = Peer("bare", OWN.pending, 45_000, 0, "batches of 500", is_own=True)
FLOOR = Peer("floor", _left("floor", "begun is null"), 1_000, 0, "a bare table and psycopg", is_own=True)
RIVALS = (
    Peer(
        "graphile-worker",
        _left("graphile_worker._private_jobs"),
        45_000,
        1_300,
        GRAPHILE,
        keeps_history=False,
        is_analyzed=False,
    ),
    Peer("pg-boss", _left("pgboss.job", "state in ('created', 'retry', 'active')"), 30_000, 0, "batches of 2,000"),
    Peer("pgqueuer", _left("pgqueuer"), 20_000, 6_000, "batches of 1,000, uvloop"),
    Peer(
        "chancy",
        _left("chancy_jobs", "state not in ('succeeded', 'failed', 'expired')"),
        4_000,
        0,
        "concurrency 500, async executor",
    ),
    Peer("oban", _left("oban_jobs", "state not in ('completed', 'cancelled', 'discarded')"), 1_500, 1_500, "limit 500"),
    Peer("dbos", _left("dbos.workflow_status", "status in ('ENQUEUED', 'PENDING')"), 1_000, 1_000, "polls every 50 ms"),
    Peer(
        "awa",
        "select exists (select from awa.jobs where state::text not in ('completed', 'failed'))",
        5_000,
        0,
        "128 workers, polls every 20 ms",
    ),
    Peer("procrastinate", _left("procrastinate_jobs", "status in ('todo', 'doing')"), 700, 400, "concurrency 10"),
)
PEERS = {peer.name: peer for peer in (OWN, BARE, FLOOR, *RIVALS)}
