"""What the demo measures is right, and what it writes is safe."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from examples.stdlib_index import sources
from examples.stdlib_index.analysis import FileReport, Function, count_lines, measure
from examples.stdlib_index.page import write_page
from examples.stdlib_index.summary import Figures, Outcome, Percentiles
from pgqueue import Task
from pgqueue.models import TaskStatistics

SOURCE = """\
class Shop:
    def price(self, item, member=False):
        if item == "tea":
            return 2
        elif item == "cake" and member:
            return 3
        for other in item:
            while other:
                other = other.next if other.next else None
        return [x for x in item if x]


def empty(): pass
"""


def test_a_file_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "shop.py"
    path.write_text(SOURCE)

    found = measure(path, "shop.py")

    assert (found.lines, found.classes, found.functions) == (13, 1, 2)
    assert found.complex_functions == [Function("price", 2, 8), Function("empty", 13, 1)]
    assert (found.nesting, found.nesting_line) == (4, 8)
    assert found.identifiers["item"] == 5
    assert found.identifiers["next"] == 2


def test_an_elif_is_no_deeper_than_its_if(tmp_path: Path) -> None:
    path = tmp_path / "chain.py"
    path.write_text("if a: pass\n" + "elif b: pass\n" * 50)

    assert measure(path, "chain.py").nesting == 1


@pytest.mark.parametrize(("source", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2)])
def test_the_last_line_counts_with_and_without_an_end(source: bytes, lines: int) -> None:
    assert count_lines(source) == lines


def test_the_library_has_a_thousand_files_or_the_installed_packages_fill_up(tmp_path: Path) -> None:
    files = sources.find(tmp_path)

    assert len(files) > 300
    assert len({file.name for file in files}) == len(files)
    assert max(len(shelf) for shelf in sources.shelves(files).values()) <= sources.SHELF
    assert all("/site-packages/" not in file.path for file in files if not file.name.startswith("site-packages/"))


def test_a_choice_of_files_is_even_and_holds_some_that_do_not_parse(tmp_path: Path) -> None:
    files = sources.find(tmp_path, 10)

    broken = [file for file in files if not parses(file)]
    assert 10 <= len(files) <= 14
    assert broken


def parses(file: sources.SourceFile) -> bool:
    try:
        measure(Path(file.path), file.name)
    except (SyntaxError, ValueError):
        return False
    return True


def test_the_page_escapes_all_text(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&"
    report = FileReport(evil, 1, 1, 1, 1, 1, 1, [Function(evil, 1, 1)], {evil: 3})
    done = Task(
        task_id=1,
        task_type="index_file",
        queue_name="files",
        priority=5,
        payload={},
        status="completed",
        max_retries=0,
        project_id=evil,
        result_value=msgspec.to_builtins(report),
    )
    zero = Percentiles(0, 0, 0)
    figures = Figures(
        total=1,
        completed=1,
        failed=0,
        seconds=1,
        throughput=1,
        wait=zero,
        run=zero,
        retries=1,
        tried_again=1,
        succeeded_on_retry=1,
        retry_reasons=[(evil, 1)],
        failures=[(evil, evil)],
        by_worker=[1],
    )
    statistics = TaskStatistics(1, 1, 0, 0, 0, 0, 100.0, 0.0, 0.0, 0.0, 0.0)

    write_page(tmp_path / "page.html", Outcome(statistics, [done], []), figures, [1.0, 2.0])

    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 7
