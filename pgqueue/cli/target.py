"""MODULE:QUEUE_SERVICE: from a name on the command line to the object in the user's module."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from typing import TYPE_CHECKING, Any

from pgqueue.cli.base import common, near
from pgqueue.cli.session import export_dsn
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType

    from pgqueue.queue_service import QueueService

FORM = "write MODULE:QUEUE_SERVICE, for instance app:queue_service"


def load_service(target: str) -> QueueService:
    """Import the module and return its queue service; the current directory counts as on sys.path.

    Raises ConfigurationError that says which part of the name is wrong, and what comes close.
    """
    export_dsn()
    name, _, attribute = target.partition(":")
    module = _import(name)
    from pgqueue.queue_service import QueueService

    found = _attribute(module, attribute, QueueService)
    found = getattr(found, "handlers", found)  # a blocking service runs its handlers in an async one
    if not isinstance(found, QueueService):
        msg = f"{target} is no QueueService: it is of type {type(found).__name__}"
        raise ConfigurationError(msg, hint=_offer(module, QueueService))
    _check_dsn(found, target)
    return found


def _import(name: str) -> ModuleType:
    if not name or name.endswith(".py") or "/" in name:
        guess = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigurationError(f"{name!r} is not the name of a module", hint=f"{FORM}{_perhaps(guess)}")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds texts
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _no_module(name, error.name) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _perhaps(guess: str) -> str:
    return f"; here perhaps {guess}:queue_service" if guess else ""


def _no_module(name: str, missing: str) -> ConfigurationError:
    parent, _, last = missing.rpartition(".")
    spec = importlib.util.find_spec(parent) if parent else None
    path = spec.submodule_search_locations if spec else None if parent else sys.path
    known = sorted({module.name for module in pkgutil.iter_modules(path)}) if path else []
    close = near(last, known)
    hint = f"{close.strip()} Modules are looked for in {os.getcwd()} and on PYTHONPATH.".strip()  # noqa: PTH109
    return ConfigurationError(f"there is no module {missing!r}", detail={"target": name}, hint=hint)


def _broken(name: str, error: BaseException) -> ConfigurationError:
    """Say where the import failed: the last line of code in the current directory, else the last of all."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename][1:]
    own = [f for f in frames if f.filename.startswith(os.getcwd())] or frames  # noqa: PTH109
    where = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}, line {error.lineno})"
        error = SyntaxError(error.msg)
    msg = f"importing {name} failed: {type(error).__name__}: {error}{where}"
    return ConfigurationError(msg, hint=f"`python -c 'import {name}'` shows the whole traceback")


def _attribute(module: ModuleType, attribute: str, kind: type) -> Any:
    if not attribute:
        msg = f"{module.__name__} names a module, but not its queue service"
        raise ConfigurationError(msg, hint=_offer(module, kind))
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = near(part, [name for name in dir(found) if not name.startswith("_")])
            msg = f"module {module.__name__} has no {attribute!r}.{close}"
            raise ConfigurationError(msg, hint=_offer(module, kind))
        found = getattr(found, part)
    return found


def _offer(module: ModuleType, kind: type) -> str:
    names = [f"{module.__name__}:{name}" for name, value in vars(module).items() if isinstance(value, kind)]
    return f"name {' or '.join(names)}" if names else f"{module.__name__} holds no QueueService; {FORM}"


def _check_dsn(service: QueueService, target: str) -> None:
    dsn = common().dsn
    if dsn and service.db.dsn != dsn:
        msg = f"--dsn cannot be used: {target} names its own database in the code"
        raise ConfigurationError(msg, hint="write Database() there, which follows --dsn and PGQUEUE_DSN")
