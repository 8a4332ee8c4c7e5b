"""What is shipped is what is in the tree: as wheel, as sdist, and installed for editing."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import pgqueue

TREE = Path(pgqueue.__file__).parent.parent
PROJECT = tomllib.loads((TREE / "pyproject.toml").read_text())
BUILD = "import sys, hatchling.build as build; print(getattr(build, sys.argv[1])(sys.argv[2]))"
LOOK = """
import site, sys
before = sys.path[:]
site.addsitedir(sys.argv[1])
sys.path[:] = sys.path[len(before):] + before
import pgqueue
from pgqueue import schema
print(pgqueue.__file__, schema.sql_root(), len(schema.sql_text()), sep="|")
"""


def build(kind: str, tree: Path, target: Path) -> Path:
    """Build a wheel, sdist or editable wheel of `tree`; return its path."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(target)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    return target / done.stdout.split()[-1]


def files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}


def shipped(tree: Path) -> set[str]:
    """Return the names in the wheel that the tree calls for."""
    package = {f"pgqueue/{name}" for name in files(tree / "pgqueue")}
    web = {f"pgqueue_web/{name}" for name in files(tree / "web" / "pgqueue_web")}
    return package | web | {f"pgqueue/_sql/{name}" for name in files(tree / "sql")}


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def look(folder: Path, site: Path) -> list[str]:
    """Import pgqueue from the installation in `site`, outside of any tree; return what LOOK prints."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(site)], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().split("|")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", TREE, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_packages_and_the_sql_and_nothing_else(wheel: Path) -> None:
    assert contents(wheel) == shipped(TREE)
    assert {"pgqueue/py.typed", "pgqueue/_sql/grants.sql"} <= contents(wheel)


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", TREE, tmp_path)
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)
    rebuilt = build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path)
    assert rebuilt.name == wheel.name
    assert contents(rebuilt) == contents(wheel)


def test_an_installed_wheel_finds_its_own_sql(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    package, root, size = look(tmp_path, tmp_path / "site")
    assert Path(package) == tmp_path / "site" / "pgqueue" / "__init__.py"
    assert Path(root) == tmp_path / "site" / "pgqueue" / "_sql"
    assert int(size) > 10_000


def test_an_installation_for_editing_follows_edits_of_python_and_sql(tmp_path: Path) -> None:
    tree = tmp_path / "a tree"
    for name in ("pgqueue", "sql", "web"):
        if (TREE / name).exists():
            shutil.copytree(TREE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / name, tree / name)
    with zipfile.ZipFile(build("editable", tree, tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    before = look(tmp_path, tmp_path / "site")
    assert [Path(place) for place in before[:2]] == [tree / "pgqueue" / "__init__.py", tree / "sql"]
    (tree / "sql" / "functions" / "999_new.sql").write_text("select 'a new file';\n" * 100)
    assert int(look(tmp_path, tmp_path / "site")[2]) > int(before[2]) + 2000


def test_each_script_and_plugin_that_is_declared_exists() -> None:
    points = distribution("pgqueue").entry_points
    assert {point.name for point in points} >= {"pgqueue", "pgqueue-api", "pgqueue-worker"}
    for point in points:
        assert point.load() is not None


def test_the_version_is_said_alike_everywhere() -> None:
    assert pgqueue.__version__ == PROJECT["project"]["version"]


def test_each_import_is_declared_as_a_dependency() -> None:
    """A module that only happens to be installed, e.g. through another one, breaks users' installs."""
    declared = {re.split(r"[\[<>=]", item)[0].replace("-", "_") for item in PROJECT["project"]["dependencies"]}
    optional = {"httpx", "httpx_sse", "opentelemetry", "pytest", "uvicorn", "pgqueue_web"}
    declared |= {"psycopg_pool"} | optional | set(sys.stdlib_module_names) | {"pgqueue"}
    for path in (TREE / "pgqueue").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            missing = {name.partition(".")[0] for name in names} - declared
            assert not missing, f"{path.relative_to(TREE)} imports {missing}"
