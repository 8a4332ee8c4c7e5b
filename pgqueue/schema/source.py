"""The SQL files as they are shipped."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pgqueue.errors import ConfigurationError

Kind = Literal["structure", "functions", "grants"]
PACKAGE = Path(__file__).resolve().parent.parent
BREAKING = re.compile(r"^--\s*pgqueue:\s*breaking\s*$", re.MULTILINE)
NAMES = {"structure": re.compile(r"\d{4}_\w+\.sql"), "functions": re.compile(r"\d{3}_\w+\.sql")}


def sql_root() -> Path:
    """Return the folder of the SQL files: in the installed package, else the repository's `sql/`."""
    packaged = PACKAGE / "_sql"
    return packaged if packaged.is_dir() else PACKAGE.parent / "sql"


def code_version() -> str:
    """Return the version of this pgqueue, e.g. 0.1.0."""
    return version("pgqueue")


@dataclass(frozen=True)
class SqlFile:
    """One file: `name` is its path below the root, e.g. structure/0001_queues.sql."""

    name: str
    kind: Kind
    path: Path

    @cached_property
    def text(self) -> str:
        """The file's contents."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the contents, whatever the line ends."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def breaking(self) -> bool:
        """Whether older code must refuse a database that has this file."""
        return bool(BREAKING.search(self.text))


@dataclass(frozen=True)
class Source:
    """All files of one release, in the order of their application."""

    structure: tuple[SqlFile, ...]
    functions: tuple[SqlFile, ...]
    grants: tuple[SqlFile, ...]

    @property
    def files(self) -> tuple[SqlFile, ...]:
        """Everything, in order."""
        return self.structure + self.functions + self.grants


def read_source(root: Path | None = None) -> Source:
    """Return the files below `root`; raises ConfigurationError for a name that has no place."""
    root = root or sql_root()
    grants = root / "grants.sql"
    source = Source(
        structure=_folder(root, "structure"),
        functions=_folder(root, "functions"),
        grants=(SqlFile("grants.sql", "grants", grants),) if grants.exists() else (),
    )
    if not source.structure:
        raise ConfigurationError(f"{root} holds no structure/*.sql", hint="the installation is incomplete: reinstall")
    return source


def _folder(root: Path, kind: Literal["structure", "functions"]) -> tuple[SqlFile, ...]:
    paths = sorted((root / kind).glob("*.sql"))
    for path in paths:
        if not NAMES[kind].fullmatch(path.name):
            digits = "0001" if kind == "structure" else "010"
            raise ConfigurationError(f"{path} is misnamed", hint=f"call it {digits}_what_it_promises.sql")
    numbers = [path.name.partition("_")[0] for path in paths]
    twice = {number for number in numbers if numbers.count(number) > 1}
    if kind == "structure" and twice:
        raise ConfigurationError(f"{root}/structure holds the number {min(twice)} twice", hint="renumber the newer one")
    return tuple(SqlFile(f"{kind}/{path.name}", kind, path) for path in paths)
