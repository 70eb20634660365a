"""Strategies and networks by name: kdlib's own, those of installed packages, and those that a user's file registers.

A name is one of

    NAME                  kdlib's own; an entry point of an installed package (groups kdlib.strategies, kdlib.models);
                          or what a plugin registered
    package.module:NAME   a part of a module, which may be a file in the working directory

A name alone never makes anything run: it may stand in an Experiment that somebody else wrote. What is imported beyond
kdlib and installed packages is said by whoever runs the process: by KDLIB_PLUGINS, `--plugin`, or a name that is given
on the command line or to `kdlib.make_experiment` (see `allow`).
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from kdlib.errors import KdlibError, meant
from kdlib.source import source

if TYPE_CHECKING:
    from kdlib.invoke.strategy import Strategy
    from kdlib.settings.architectures import Network

T = TypeVar("T")

PLUGINS = "KDLIB_PLUGINS"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class Part(NamedTuple, Generic[T]):
    """A strategy, or a network. source: SHA-256 of the code that it is made of, None of kdlib's own."""

    value: T
    source: str | None


class Registry(Generic[T]):
    """Parts of one kind, by name.

    what: the kind, for messages; must: what a part must be, for them too, and fits: whether it is; group: of entry
    points; package: whose modules hold kdlib's own; own: module -> those in it, by name; code: part -> the functions
    and classes that it is made of.
    """

    def __init__(self, what: str, must: str, fits: Callable[[Any], bool], group: str, package: str,
                 own: Callable[[ModuleType], Mapping[str, T]], code: Callable[[T], Iterable[object]]) -> None:
        self.what, self.must, self.group, self.package = what, must, group, package
        self._fits, self._own, self._code = fits, own, code
        self._parts: dict[str, Part[T]] = {}
        self._here: set[str] = set()
        self._complete = False

    def register(self, name: str, value: T) -> T:
        """From now on `name` is `value`, in this process; the same name again replaces what it was.

        Raises KdlibError for a name of kdlib's own, for one that no part can have, and for a value that is no part.
        """
        if not NAME.fullmatch(name):
            raise KdlibError(f"'{name[:80]}' is no name for a {self.what}; allowed: up to 64 lower-case letters, "
                             "digits, - and _")
        if name in self._own_parts():
            raise KdlibError(f"kdlib has a {self.what} {name} of its own; allowed: another name")
        self._parts[name] = self._part(name, value, _loading[-1:])
        (self._here.discard if _loading else self._here.add)(name)
        return value

    def elsewhere(self, name: str) -> bool:
        """Whether a process knows `name` that has loaded `plugins()`; it knows no cell of a notebook, and no script."""
        return name not in self._here

    def find(self, name: str) -> Part[T]:
        """The part called `name`. Raises KdlibError where there is none, or where its module may not be imported."""
        load_environment()
        own = self._own_parts()
        if name in own:
            return own[name]
        if name not in self._parts:
            module, _, attribute = name.partition(":")
            if entry := self._entry_point(name):
                module, value = entry.module, self._installed(entry)
            elif REFERENCE.fullmatch(name) and module in _allowed:
                value = getattr(sys.modules[module], attribute, None)
                if value is None:
                    raise KdlibError(f"{module} has no {attribute}; allowed: a {self.what} of that module")
            else:
                raise KdlibError(self._unknown(name))
            self._parts[name] = self._part(name, value, [module])
        return self._parts[name]

    def names(self) -> list[str]:
        """All that can be found here without allowing more."""
        load_environment()
        installed = [entry.name for entry in _entry_points(self.group, tuple(sys.path))]
        return list(dict.fromkeys([*self._own_parts(), *installed, *self._parts]))

    def _own_parts(self) -> dict[str, Part[T]]:
        if not self._complete:
            package = importlib.import_module(self.package)
            modules = [importlib.import_module(f"{self.package}.{found.name}")
                       for found in pkgutil.iter_modules(package.__path__)]
            self._kdlibs = {name: Part(value, None) for module in modules for name, value in self._own(module).items()}
            self._complete = True
        return self._kdlibs

    def _part(self, name: str, value: Any, modules: Iterable[str]) -> Part[T]:
        """modules: where it was found, whose text counts too: a part may be made there of another module's function."""
        if not self._fits(value):
            raise KdlibError(f"{name} is no {self.what}, but {repr(value)[:80]}; allowed: {self.must}")
        there = [sys.modules[module] for module in modules if module in sys.modules]
        return Part(value, source(self._code(value), there))

    def _entry_point(self, name: str) -> importlib.metadata.EntryPoint | None:
        """Raises KdlibError where two installed packages have the name for unlike things."""
        if all(entry.name != name for entry in _entry_points(self.group, tuple(sys.path))):
            _entry_points.cache_clear()  # it may be installed since, from a notebook
        found = {entry.value: entry for entry in _entry_points(self.group, tuple(sys.path)) if entry.name == name}
        if len(found) > 1:
            raise KdlibError(f"installed packages have more than one {self.what} {name}: {', '.join(found)}; allowed: "
                             "one of them, as package.module:NAME")
        return next(iter(found.values()), None)

    def _installed(self, entry: importlib.metadata.EntryPoint) -> Any:
        try:
            return entry.load()
        except Exception as error:  # whatever somebody's module raises
            package = f" of the package {entry.dist.name}" if entry.dist else ""
            raise KdlibError(f"the {self.what} {entry.name}{package} cannot be imported ({_said(error)}); allowed: a "
                             f"version of it that fits here, or to uninstall it") from error

    def _unknown(self, name: str) -> str:
        module = name.partition(":")[0]
        if REFERENCE.fullmatch(name):
            return (f"the {self.what} {name} is not registered here; allowed: `--plugin {module}`, {PLUGINS}={module}, "
                    f"or a package with an entry point in {self.group}")
        return (f"unknown {self.what} '{name[:80]}'{meant(name[:80], self.names())}; allowed: "
                f"{', '.join(self.names())}; or one of your own as package.module:NAME, or registered by a file: "
                f"`--plugin FILE.py`, {PLUGINS}=FILE.py")


STRATEGIES: "Registry[Strategy]" = Registry(
    "strategy", "a kdlib.Strategy", lambda value: hasattr(value, "workflow") and hasattr(value, "steps"),
    "kdlib.strategies", "kdlib.strategies",
    own=lambda module: {module.STRATEGY.name: module.STRATEGY}, code=lambda strategy: strategy.code)
NETWORKS: "Registry[Network]" = Registry(
    "network", "a function that makes a torch.nn.Module", lambda value: callable(getattr(value, "build", value)),
    "kdlib.models", "kdlib.learning.networks",
    own=lambda module: module.NETWORKS, code=lambda network: [getattr(network, "build", network)])

_allowed: dict[str, str] = {}  # module -> the plugin, a module or an absolute path of a file, that it was loaded as
_loading: list[str] = []  # modules of the plugins that are being imported, the innermost last
_environment: str = ""  # what KDLIB_PLUGINS said when it was last looked at


def allow(name: str) -> None:
    """Import the module of `package.module:NAME`, since the user named it; of any other name nothing.

    Raises KdlibError where the module cannot be imported.
    """
    if REFERENCE.fullmatch(name) and name.partition(":")[0] not in _allowed:
        load(name.partition(":")[0])


def load(plugin: str) -> None:
    """Import a plugin, FILE.py or package.module, which registers what it holds; its parts may be named from now on.

    Raises KdlibError where it cannot be imported.
    """
    try:
        module = _from_file(Path(plugin)) if plugin.endswith(".py") else _by_name(plugin)
    except KdlibError:
        raise
    except Exception as error:  # whatever a user's module raises
        raise KdlibError(f"the plugin {plugin} cannot be imported ({_said(error)}); allowed: a FILE.py, or a module "
                         "that Python finds, in the working directory too") from error
    file = getattr(module, "__file__", None)
    lone = file if "." not in module.__name__ and not (file or "").endswith("__init__.py") else None
    _allowed[module.__name__] = str(Path(lone).absolute()) if lone else module.__name__


def load_environment() -> None:
    """Load the plugins that KDLIB_PLUGINS names, unless that is done. Raises KdlibError, see `load`."""
    global _environment
    said = os.environ.get(PLUGINS, "")
    if said != _environment:
        before, _environment = _environment, said
        try:
            for plugin in filter(None, said.split(os.pathsep)):
                load(plugin)
        except KdlibError:
            _environment = before  # or the next call would go on without
            raise


def plugins(files: bool = True) -> list[str]:
    """What another process has to `load` to know all that this one does, notebooks' own cells apart.

    files: whether those that are files of this machine are among them, or packages' modules alone.
    """
    load_environment()
    return [plugin for plugin in dict.fromkeys(_allowed.values()) if files or not plugin.endswith(".py")]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@functools.lru_cache(maxsize=8)
def _entry_points(group: str, path: tuple[str, ...]) -> list[importlib.metadata.EntryPoint]:
    """Those that have a name for a part. path: sys.path, as to read all packages' metadata takes milliseconds."""
    return [entry for entry in importlib.metadata.entry_points(group=group) if NAME.fullmatch(entry.name)]


def _from_file(path: Path) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise KdlibError(f"there is no plugin {path}; allowed: the path of a Python file")
    there = sys.modules.get(path.stem)
    if there is not None:
        if getattr(there, "__file__", None) and Path(there.__file__).samefile(path):  # type: ignore[arg-type]
            return there
        raise KdlibError(f"the plugin {path} has the name of the module {path.stem}; allowed: another file name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    _loading.append(path.stem)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    finally:
        _loading.pop()
    return module


def _by_name(name: str) -> ModuleType:
    here = str(Path.cwd())  # as Python itself has it for `python -c` and in a notebook, but not for a console script
    if here not in sys.path:
        sys.path.append(here)
    _loading.append(name)
    try:
        return importlib.import_module(name)
    finally:
        _loading.pop()
