"""Which files are indexed: those of the interpreter's standard library."""

from __future__ import annotations

import os
import site
import sysconfig
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SourceFile", "find", "shelves"]

ENOUGH = 1000
SHELF = 60
NOT_ENTERED = frozenset({"site-packages", "dist-packages", "__pycache__"})
SHIPPED_BROKEN = ("lib2to3/tests/data/py2_", "test/tokenizedata/bad", "test/badsyntax_", "test/test_lib2to3/data/py2_")
BROKEN = {
    "unclosed_bracket.py": "totals = {'pages': 3, 'words': (120, 80}\n",
    "print_statement.py": "for name in ('a', 'b'):\n    print 'hello', name\n",
    "bad_indent.py": "def area(width, height):\n    size = width * height\n  return size\n",
    "assignment_to_call.py": "len(items) = 3\n",
}
"""Snippets that do not parse, for an interpreter that ships none."""


class SourceFile(msgspec.Struct, frozen=True):
    """Where a file is, the name it has in the report, and the shelf (package, or part of one) it stands on."""

    path: str
    name: str
    shelf: str


def find(scratch: Path, limit: int | None = None) -> list[SourceFile]:
    """Find the files of the standard library, or `limit` of them evenly chosen, in the order of their shelves.

    Debian ships the library without its tests: where there are fewer than a thousand files, installed packages
    fill up. Where none of the files is known not to parse, some that do not are written to `scratch`.
    """
    files = list(_under(Path(sysconfig.get_path("stdlib"))))
    if len(files) < ENOUGH:
        files += _installed()[: ENOUGH - len(files)]
    if limit is not None:
        files = _evenly(files, limit)
    if not any(name.startswith(SHIPPED_BROKEN) for _, name in files):
        files += _write_snippets(scratch)
    return list(_shelved(files))


def shelves(files: list[SourceFile]) -> dict[str, list[SourceFile]]:
    """Group files by their shelf, in order."""
    groups: defaultdict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        groups[file.shelf].append(file)
    return dict(groups)


def _under(root: Path, prefix: str = "") -> Iterator[tuple[Path, str]]:
    """Yield files with their names; packages first, then the modules beside them."""
    for folder, folders, names in os.walk(root, topdown=True):
        folders[:] = sorted(name for name in folders if name not in NOT_ENTERED)
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file():
                yield path, prefix + path.relative_to(root).as_posix()


def _installed() -> list[tuple[Path, str]]:
    return [found for folder in site.getsitepackages() for found in _under(Path(folder), "site-packages/")]


def _evenly(files: list[tuple[Path, str]], limit: int) -> list[tuple[Path, str]]:
    count = min(max(limit, 1), len(files))
    return [files[position * len(files) // count] for position in range(count)]


def _write_snippets(scratch: Path) -> Iterator[tuple[Path, str]]:
    scratch.mkdir(parents=True, exist_ok=True)
    for name, text in BROKEN.items():
        path = scratch / name
        path.write_text(text, encoding="utf-8")
        yield path, f"snippets/{name}"


def _shelved(files: list[tuple[Path, str]]) -> Iterator[SourceFile]:
    """Put each file on the shelf of its package; packages of more than SHELF files get several."""
    sizes = Counter(_package(name) for _, name in files)
    placed: Counter[str] = Counter()
    for path, name in sorted(files, key=lambda file: (_package(file[1]) == "modules", _package(file[1]), file[1])):
        package = _package(name)
        part = placed[package] // SHELF + 1
        parts = -(-sizes[package] // SHELF)
        placed[package] += 1
        yield SourceFile(str(path), name, package if parts == 1 else f"{package} {part}/{parts}")


def _package(name: str) -> str:
    folder, slash, rest = name.partition("/")
    if folder == "site-packages" and "/" in rest:
        return rest.partition("/")[0]
    return folder if slash else "modules"
