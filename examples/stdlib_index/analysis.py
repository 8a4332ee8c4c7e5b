"""What one Python file holds: its size, its identifiers, how deep it nests, and how complex its functions are."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileReport", "Function", "count_lines", "measure"]

MOST_FUNCTIONS = 10
DECISIONS = frozenset(
    {
        *(ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.Assert),
        *(ast.ExceptHandler, ast.comprehension, ast.match_case),
    }
)
BLOCKS = frozenset(
    {
        *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match),
        *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    }
)
NAMES: dict[type[ast.AST], str] = {
    ast.Name: "id",
    ast.Attribute: "attr",
    ast.arg: "arg",
    ast.FunctionDef: "name",
    ast.AsyncFunctionDef: "name",
    ast.ClassDef: "name",
}
"""Where a kind of node keeps its identifier."""
LEAVES = frozenset({ast.Name, ast.Constant, ast.alias})
"""Below them nothing is counted."""


class Function(msgspec.Struct, frozen=True):
    """A function and its cyclomatic complexity (McCabe 1976): 1 plus the number of decisions in it."""

    name: str
    line: int
    complexity: int


class FileReport(msgspec.Struct, frozen=True):
    """What was found in a file. `functions` counts all; `complex_functions` names the most complex ones.

    `nesting` is the depth of the deepest block, and `nesting_line` where it begins.
    """

    name: str
    size: int
    lines: int
    classes: int
    functions: int
    nesting: int
    nesting_line: int
    complex_functions: list[Function]
    identifiers: dict[str, int]


def measure(path: Path, name: str) -> FileReport:
    """Parse a file and count. Raises SyntaxError or ValueError where it is no Python, OSError where it is gone."""
    source = path.read_bytes()
    found = _Counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's tests hold doubtful literals on purpose
        tree = ast.parse(source, filename=name)
    found.walk(tree)
    return FileReport(
        name=name,
        size=len(source),
        lines=count_lines(source),
        classes=found.classes,
        functions=len(found.functions),
        nesting=found.nesting,
        nesting_line=found.nesting_line,
        complex_functions=found.most_complex(),
        identifiers=dict(found.identifiers.most_common()),
    )


def count_lines(source: bytes) -> int:
    """Count lines, with the last one where it is not ended."""
    return source.count(b"\n") + bool(source and not source.endswith(b"\n"))


class _Open:
    """A function that is being counted."""

    __slots__ = ("complexity", "line", "name")

    def __init__(self, name: str, line: int) -> None:
        self.name, self.line, self.complexity = name, line, 1


class _Counts:
    """Walks a tree with a list instead of recursion: some files nest deeper than Python's stack."""

    def __init__(self) -> None:
        self.identifiers: Counter[str] = Counter()
        self.classes = 0
        self.nesting = 0
        self.nesting_line = 1
        self.functions: list[_Open] = []
        self._elifs: set[int] = set()

    def walk(self, tree: ast.AST) -> None:
        """Count every node, each decision for the innermost function around it."""
        todo: list[tuple[ast.AST, _Open, int]] = [(tree, _Open("<module>", 0), 0)]
        while todo:
            node, inside, depth = todo.pop()
            kind = type(node)
            if kind in NAMES:
                inside = self._named(node, NAMES[kind], inside)
            elif kind in DECISIONS:
                inside.complexity += 1
            elif isinstance(node, ast.BoolOp):
                inside.complexity += len(node.values) - 1
            if kind in BLOCKS:
                depth += id(node) not in self._elifs
                self._nested(node, depth)
            if kind not in LEAVES:
                todo += [(child, inside, depth) for child in ast.iter_child_nodes(node) if child._fields]

    def _named(self, node: ast.AST, field: str, inside: _Open) -> _Open:
        name = getattr(node, field)
        self.identifiers[name] += 1
        if isinstance(node, ast.ClassDef):
            self.classes += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = _Open(name, node.lineno)
            self.functions.append(inside)
        return inside

    def _nested(self, node: ast.AST, depth: int) -> None:
        """Note how deep a block is. An `elif` is an If in the else of another, but stands beside it."""
        if isinstance(node, ast.If) and len(node.orelse) == 1:
            child = node.orelse[0]
            if isinstance(child, ast.If) and child.col_offset == node.col_offset:
                self._elifs.add(id(child))
        if depth > self.nesting:
            self.nesting, self.nesting_line = depth, getattr(node, "lineno", 1)

    def most_complex(self) -> list[Function]:
        """Return the functions with the most decisions."""
        found = [Function(f.name, f.line, f.complexity) for f in self.functions]
        return sorted(found, key=lambda function: -function.complexity)[:MOST_FUNCTIONS]
