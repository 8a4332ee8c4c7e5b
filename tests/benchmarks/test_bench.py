"""The harness works: each row runs in a tiny size. No figure is judged."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import meter, report
from benchmarks.model import BEST_RIVAL, Figure, Row, Target, gather, judge
from benchmarks.peers.catalogue import PEERS, RIVALS
from benchmarks.rows import ROWS

ROOT = Path(__file__).parents[2]
PARTS = 3


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_row_measures_in_a_tiny_size(part: int) -> None:
    names = list(ROWS)[part::PARTS]

    done = bench("--quick", "--json", *names)

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row["row"] for row in said["rows"]] == names
    assert said["about"]["settings"]["fsync"] == "on"
    for row in said["rows"]:
        assert row["figures"], row["row"]
        for figure in row["figures"]:
            assert all(math.isfinite(value) and value >= 0 for value in figure["values"]), (row["row"], figure)
    assert {target["verdict"] for target in said["targets"]} <= {"met", "missed", "not measured"}


def test_rows_are_listed_with_their_targets() -> None:
    done = bench("--list")

    assert done.returncode == 0, done.stderr
    for name in ROWS:
        assert name in done.stdout
    assert "rate ≥ 1.1 of graphile-worker" in done.stdout


def test_an_unknown_row_is_refused_with_those_that_there_are() -> None:
    done = bench("drian")

    assert done.returncode == 2
    assert "no row is named drian" in done.stderr
    assert "drain" in done.stderr


def test_each_rival_has_its_adapter_and_one_pinned_version() -> None:
    folders = {path.name for path in (ROOT / "benchmarks" / "peers").iterdir() if path.is_dir()} - {"__pycache__"}

    assert folders == set(PEERS)
    for peer in RIVALS:
        assert peer.version()[0].isdecimal(), peer


def row(*targets: Target) -> Row:
    return Row("some", "thing", lambda _bench, _peer: [], targets)


def figures(unit: str = "/s", **medians: float) -> list[Figure]:
    return [Figure(name, "rate", unit, [value]) for name, value in medians.items()]


@pytest.mark.parametrize(("own", "word"), [(110.0, "met"), (109.0, "missed")])
def test_a_target_is_a_ratio_of_the_same_run(own: float, word: str) -> None:
    judged = judge(row(Target("rate", "pgqueuer", at_least=1.1)), figures(pgqueue=own, pgqueuer=100.0), [], [])

    assert [verdict.word for verdict in judged] == [word]


def test_a_target_against_nobody_is_not_measured_rather_than_met() -> None:
    judged = judge(row(Target("rate", "pgqueuer", at_least=1.1)), figures(pgqueue=110.0), [], ["pgqueuer"])

    assert [verdict.word for verdict in judged] == ["not measured"]


@pytest.mark.parametrize(("unit", "ratio"), [("/s", 0.5), ("ms", 2.0)])
def test_the_best_rival_is_the_fastest_or_the_quickest(unit: str, ratio: float) -> None:
    target = Target("rate", BEST_RIVAL, at_most=1.0)

    (verdict,) = judge(row(target), figures(unit, pgqueue=2.0, one=1.0, two=4.0), [], ["one", "two"])

    assert verdict.ratio == ratio


def test_repeats_of_a_figure_are_gathered_and_their_median_counts() -> None:
    (figure,) = gather([*figures(pgqueue=1.0), *figures(pgqueue=9.0), *figures(pgqueue=2.0)])

    assert (figure.values, figure.median) == ([1.0, 9.0, 2.0], 2.0)
    assert "[1.00 to 9.00, 3 runs]" in report.line(figure)


def test_a_meter_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.meter"
    assert meter.read(path) == meter.Reading(0, 0, 0, 0)
    written = meter.Meter(str(path), room=2)

    for _ in range(3):
        written.mark(time.time())
    written.mark()

    reading = meter.read(path)
    assert (reading.ran, reading.samples) == (4, 2)
    assert 0 < reading.first_ns <= reading.last_ns
    assert len(meter.samples(path)) == 2
