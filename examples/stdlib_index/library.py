"""What the reports of all files say together."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from .analysis import FileReport, Function

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqueue import Task

__all__ = ["Library", "library_of"]


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """The index: totals, and the first of each ranking."""

    files: int
    size: int
    lines: int
    classes: int
    functions: int
    distinct_identifiers: int
    identifiers: list[tuple[str, int]]
    packages: list[tuple[str, int, int]]
    """Name, files, lines."""
    biggest: list[FileReport]
    deepest: list[FileReport]
    complex: list[tuple[Function, str]]
    """With the name of the file."""


def library_of(tasks: Iterable[Task], most: int = 15) -> Library:
    """Add up the results of the completed index_file tasks; each ranking holds at most `most`."""
    done = [task for task in tasks if task.task_type == "index_file" and task.status == "completed"]
    reports = [msgspec.convert(task.result_value, FileReport) for task in done]
    names: Counter[str] = Counter()
    for report in reports:
        names.update(report.identifiers)
    functions = [(function, report.name) for report in reports for function in report.complex_functions]
    return Library(
        files=len(reports),
        size=sum(report.size for report in reports),
        lines=sum(report.lines for report in reports),
        classes=sum(report.classes for report in reports),
        functions=sum(report.functions for report in reports),
        distinct_identifiers=len(names),
        identifiers=names.most_common(most),
        packages=_packages(done, reports)[:most],
        biggest=sorted(reports, key=lambda report: (-report.lines, report.name))[:most],
        deepest=sorted(reports, key=lambda report: (-report.nesting, report.name))[:most],
        complex=sorted(functions, key=lambda found: (-found[0].complexity, found[1]))[:most],
    )


def _packages(tasks: list[Task], reports: list[FileReport]) -> list[tuple[str, int, int]]:
    """Join the shelves of a package again: `test 3/8` belongs to `test`."""
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for task, report in zip(tasks, reports, strict=True):
        package = (task.project_id or "").partition(" ")[0]
        lines[package] += report.lines
        files[package] += 1
    return [(name, files[name], count) for name, count in lines.most_common()]
