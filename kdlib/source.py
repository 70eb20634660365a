"""The source of strategies and networks that are not kdlib's own, as one hash: what a run's key tells them apart by."""

import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from kdlib.errors import KdlibError

MAIN = "__main__"
PLAIN = int | float | str | tuple  # of which a notebook's own names count


def source(code: Iterable[object], modules: Iterable[ModuleType] = ()) -> str:
    """SHA-256 of the files that the functions and classes come from, and of the modules'.

    Of a package that is all its Python files, of a single file also those beside it that it imports. Of what was
    written into a notebook's cells it is the text of these functions and classes, of those there that they use, and the
    plain numbers and words. What a function was given beforehand,
    by functools.partial or a function around it, counts as far as JSON can say it. kdlib's own code never counts.
    Raises KdlibError where a part has no text that could be hashed.
    """
    found: dict[str, bytes] = {}
    for module in modules:
        found |= _files(module)
    for one in code:
        found |= _text(one)
    digest = hashlib.sha256()
    for name, text in sorted(found.items()):
        digest.update(f"{name} {hashlib.sha256(text).hexdigest()}\n".encode())
    return digest.hexdigest()


def _text(one: Any) -> dict[str, bytes]:
    if isinstance(one, functools.partial):
        return _text(one.func) | {"partial": _json([one.args, one.keywords])}
    if not (inspect.isroutine(one) or inspect.isclass(one)):
        raise _unknown(one)
    name = getattr(one, "__qualname__", repr(one))
    cells = getattr(one, "__closure__", None) or ()
    held = {f"{name} holds": _json([cell.cell_contents for cell in cells])} if cells else {}
    module = inspect.getmodule(one)
    if module is not None and getattr(module, "__file__", None):
        return _files(module) | held
    found: dict[str, bytes] = {}
    _written(one, found)
    return found | held


def _files(module: ModuleType) -> dict[str, bytes]:
    package = sys.modules[module.__name__.partition(".")[0]]
    if package.__name__ == __package__:
        return {}
    if module.__name__ != MAIN and hasattr(package, "__path__"):
        return {f"{package.__name__}/{path.relative_to(root).as_posix()}": path.read_bytes()
                for root in map(Path, package.__path__) for path in root.rglob("*.py")}
    found: dict[str, bytes] = {}
    left = [module]
    while left:
        one = left.pop()
        file = getattr(one, "__file__", None)
        if file and Path(file).parent == Path(module.__file__ or "").parent and Path(file).name not in found:
            found[Path(file).name] = Path(file).read_bytes()
            left += [value if isinstance(value, ModuleType) else inspect.getmodule(value) or module
                     for value in list(vars(one).values())]
    return found


def _written(one: Any, found: dict[str, bytes]) -> None:
    """Add what `one`, of a module that is no file, consists of, and go on with what it uses of that module."""
    name = getattr(one, "__qualname__", repr(one))
    if name in found:
        return
    if inspect.isclass(one):
        found[name] = repr(getattr(one, "model_fields", "")).encode()
        uses = [*vars(one).values(), *one.__bases__]
    else:
        try:
            found[name] = inspect.getsource(one).encode()
        except (OSError, TypeError) as error:
            raise _unknown(one) from error
        uses = [one.__globals__.get(word) for word in _words(one.__code__)]
        found |= {f"{name} uses": repr([use for use in uses if isinstance(use, PLAIN)]).encode()}
    for use in uses:
        if (inspect.isfunction(use) or inspect.isclass(use)) and not getattr(inspect.getmodule(use), "__file__", None) \
                and use.__module__ == MAIN:
            _written(use, found)


def _words(code: CodeType) -> list[str]:
    """The names that a function's code looks up, inner functions' among them."""
    inner = [word for const in code.co_consts if isinstance(const, CodeType) for word in _words(const)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _json(value: object) -> bytes:
    def named(one: object) -> str:
        if not (inspect.isroutine(one) or inspect.isclass(one) or inspect.ismodule(one)):
            raise _unknown(one)
        return str(getattr(one, "__qualname__", one))

    return json.dumps(value, sort_keys=True, default=named).encode()


def _unknown(one: object) -> KdlibError:
    return KdlibError(f"the source of {one!r} is not to be had, so a run's key could not tell it from a changed one; "
                      "allowed: a function or class in a file or a notebook's cell")
