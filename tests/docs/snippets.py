"""The Python of our documents: what is shown, and what only the tests run."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(?P<shown>.*?)^```$|^<!-- python\n(?P<hidden>.*?)^-->$", re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    """A block of Python, padded so that its line numbers are those of the document."""

    path: Path
    line: int
    text: str

    async def run(self, namespace: dict[str, Any]) -> None:
        """Run it, `await` included."""
        source = "\n" * self.line + self.text
        code = compile(source, str(self.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        answer = eval(code, namespace)  # noqa: S307 - our own documents
        if inspect.iscoroutine(answer):
            await answer


def snippets(name: str) -> Iterator[Snippet]:
    """Return the blocks of a document, in order; those in comments are not shown to readers."""
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        group = "shown" if found["shown"] is not None else "hidden"
        yield Snippet(path, text.count("\n", 0, found.start(group)), found[group])
