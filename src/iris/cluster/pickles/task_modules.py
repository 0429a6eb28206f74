"""Chooses the modules for a callable in a task's process: the worker's modules, or the caller's copies."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Collection, Mapping, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

import cloudpickle

from .module_sources import FOLDER, IDENTITY, FoundModule, find_module, places_of, root_of, source_of
from .trailer import ModuleSource, Trailer

# A key for a package or a single module: the first part of the name, and the folder from which the caller has imported
# the package or module.
_Unit = tuple[str, str]


class TaskModules:
    """Decides, before anything is unpickled, whether each module in the pickle is imported or taken from the pickle.

    Two versions of one package are never mixed. The decisions are made in this order:
    1. If a package has another version on this machine, all modules of the package come from the pickle. These modules
       are added to `sys.modules` before any code can import the other version.
    2. Modules with the same source on this machine are imported.
    3. All other modules come from the pickle, and are added to `sys.modules` if their names are free.

    Args:
        trailer: The trailer of the pickle, if the pickle has a trailer.
        differing: The names of modules whose objects on this machine differ from the objects in the pickle, although
            the source files are equal.
    """

    def __init__(self, trailer: Trailer | None, differing: Collection[str] = ()) -> None:
        self._sources: Mapping[str, ModuleSource] = {} if trailer is None else trailer.modules
        self._is_told = trailer is not None
        self._imported: dict[str, types.ModuleType] = {}
        self._sharing: dict[str, types.ModuleType | None] = {}
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        # `__main__` gets no `__file__`, because the file would be the caller's script, and each process that the task
        # spawns would run the script.
        self._homes: dict[str, types.ModuleType] = {"__main__": main}
        # The globals for the functions of each module in the pickle, by module name.
        self._globals: dict[str, dict[str, Any]] = {}
        if "__main__" in self._sources:
            setattr(main, IDENTITY, self._sources["__main__"])
        self._not_sent = _NotSentFinder()
        self._decide(differing)

    def imported(self, name: str) -> types.ModuleType | None:
        """Return this machine's module if its source equals the source of the sent module, and None otherwise."""
        return self._imported.get(name)

    def sharing(self, name: str) -> types.ModuleType | None:
        """Return the module with the given name on this machine if the globals from the pickle must be written into it.
        Return None if the pickle's own copy of the module is used.
        """
        if name not in self._sources and name not in self._sharing:
            self._sharing[name] = None
            with contextlib.suppress(Exception):
                # A module that was pickled by name is imported. The import fails if the module is not installed on this
                # machine.
                self._sharing[name] = importlib.import_module(name)
        return self._imported.get(name) or self._sharing.get(name)

    def own_names(self) -> list[str]:
        """Return the names of the modules in `sys.modules` that come from the pickle."""
        return [name for name, home in self._homes.items() if name != "__main__" and sys.modules.get(name) is home]

    def add_definitions(self, made: Sequence[Any]) -> None:
        """Add functions and classes from the pickle to their modules. Globals that already exist are not replaced."""
        for thing in made:
            home = self._homes.get(thing.__module__)
            if home is not None and thing.__qualname__.isidentifier():
                vars(home).setdefault(thing.__qualname__, thing)

    def explain(self, error: BaseException) -> str:
        """Return advice for an error whose cause is that a part of a module was not sent. Return an empty string for
        other errors.
        """
        name: object = None
        if isinstance(error, AttributeError):
            name = getattr(error.obj, "__name__", None) if isinstance(error.obj, types.ModuleType) else None
        elif isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):
            name = error.name
        if not isinstance(name, str) or name not in self.own_names():
            return ""
        file = self._sources[name].file if name in self._sources else "the caller"
        return (
            f"the task has only the part of {name!r} that the callable refers to, from {file}: refer to the rest of it"
            " in a function that is sent, install the module on the worker, or send its folder along as the workspace"
        )

    def make_globals(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return the dict to use as the globals of the unpickled functions of a module.

        Args:
            names: The unpickled globals. They include names that describe the module, such as `__name__`. All functions
                of one module have the same dict.
        """
        name = names.get("__name__")
        # Two dicts may have the same `__name__`, for example because of `exec`. Only the first belongs to the module.
        if not isinstance(name, str) or self._globals.setdefault(name, names) is not names:
            return names
        home = vars(self.make_module(name))
        home["__package__"] = names.get("__package__")
        if name != "__main__":
            home["__file__"] = names.get("__file__")
        if "__path__" in names:
            # With an empty `__path__`, Python imports no module of the package from folders on this machine.
            home["__path__"] = []
        return home

    def make_module(self, name: str) -> types.ModuleType:
        """Return the module object to use for a module whose code is in the pickle. If the module's name is free, the
        module is added to `sys.modules`.
        """
        home = self._homes.get(name)
        return self._add_home(name) if home is None else home

    def _decide(self, differing: Collection[str]) -> None:
        names = sorted(name for name in self._sources if name != "__main__")
        found = {name: find_module(name) for name in names}
        for name in names:
            self._import_folders(name, found[name])
        # The packages that have another version on this machine, each with the name of one of its modules.
        others: dict[_Unit, str] = {}
        for name in names:
            if name in differing or self._is_other(name, found):
                others.setdefault(self._unit(name), name)
        for unit, name in others.items():
            _forget_imported(unit[0], found[name])
            self._not_sent.add(name, self._sources[name], found[name], "it differs from the caller's")
        for name in names:
            if self._unit(name) in others and name not in self._imported:
                self._add_home(name)
        for name in names:
            if self._unit(name) not in others and found[name] is not None:
                self._import(name, found[name])
        for name in names:
            if name not in self._imported and name not in self._homes:
                self._add_home(name)

    def _unit(self, name: str) -> _Unit:
        return name.partition(".")[0], self._sources[name].root

    def _is_other(self, name: str, found: Mapping[str, FoundModule | None]) -> bool:
        here = found[name]
        if here is not None:
            return here.digest != self._sources[name].digest
        # If the package on this machine lacks the module, its version differs from the caller's. A namespace package is
        # an exception, because only one of its folders needs to contain the module.
        above = found.get(name.rpartition(".")[0])
        return above is not None and above.digest != FOLDER

    def _import_folders(self, name: str, here: FoundModule | None) -> None:
        """Import a package without a file. The import runs no code, and the package's other folders stay importable."""
        above = name.rpartition(".")[0]
        is_folder = here is not None and here.digest == FOLDER == self._sources[name].digest
        if is_folder and (not above or above in self._imported):
            self._import(name, here)

    def _import(self, name: str, here: FoundModule | None) -> None:
        try:
            module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - The user's code can raise any exception, and the task may not need the module.
            self._not_sent.add(name, self._sources[name], here, f"importing it failed with {error!r}")
            return
        if source_of(module).digest == self._sources[name].digest:
            self._imported[name] = module

    def _add_home(self, name: str) -> types.ModuleType:
        home = self._homes[name] = types.ModuleType(name)
        source = self._sources.get(name)
        package, _, leaf = name.rpartition(".")
        if source is not None:
            setattr(home, IDENTITY, source)
            if source.file.endswith((".py", ".pyc")):
                home.__file__ = source.file
        if package:
            parent = self._parent(package)
            vars(parent).setdefault("__path__", [])
            setattr(parent, leaf, home)
        # If the pickle has no trailer, the source of the sent module is unknown, and this machine's module is
        # preferred.
        is_free = sys.modules.get(package) is self._homes.get(package) if package else not _is_importable(name)
        if source is not None or (is_free and not self._is_told):
            sys.modules[name] = home
            # The module is registered, so that the results and child jobs of the task pickle the module by value, too.
            cloudpickle.register_pickle_by_value(home)
        return home

    def _parent(self, package: str) -> types.ModuleType:
        parent = self._imported.get(package) or self._homes.get(package)
        if parent is None and self._is_told and package not in self._sources:
            with contextlib.suppress(Exception):
                # The caller has not sent this package, because it is installed on the caller's machine. Therefore it is
                # imported from this machine.
                parent = importlib.import_module(package)
        return self._add_home(package) if parent is None else parent


def _forget_imported(first_name: str, here: FoundModule | None) -> None:
    """Remove a package's modules from `sys.modules`, because this machine's version of the package is not used."""
    if here is None:
        return
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == first_name and isinstance(module, types.ModuleType):
            places = places_of(module)
            if places and root_of(name, places[0]) == here.root:
                del sys.modules[name]


def _is_importable(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return True  # If Python cannot search for the name, the import itself will raise the error.


class _NotSentFinder:
    """An import finder that refuses to mix two versions of a package. If the caller has sent a part of a package, the
    rest is not imported from another version of the package.
    """

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str], tuple[str, str, str, str]] = {}

    def add(self, name: str, source: ModuleSource, here: FoundModule | None, reason: str) -> None:
        """Refuse imports from this machine's version of a module's package."""
        if here is not None and here.root:
            key = name.partition(".")[0], here.root
            if not self._refused and self not in sys.meta_path:
                sys.meta_path.insert(0, self)
            self._refused.setdefault(key, (name, source.file, here.file, reason))

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return None, so that Python tries the other finders, or raise an error for a refused module.

        Raises:
            ModuleNotFoundError: The module belongs to another version of a package that the caller has sent.
        """
        first = name.partition(".")[0]
        if first == name or not any(key[0] == first for key in self._refused):
            return None
        here = find_module(name, skip=self)
        refused = None if here is None else self._refused.get((first, here.root))
        if refused is None:
            return None
        sent, its_file, my_file, reason = refused
        error = ModuleNotFoundError(
            f"No module named {name!r}: {sent!r} is the copy that the caller sent of {its_file}, because this worker's"
            f" {my_file} cannot be used: {reason}. {name!r} was not sent with it. Give the worker the caller's version"
            f" of {first!r}; or import {name!r} at the top of the module that uses it, so that it is sent too; or send"
            " the folder along as the workspace",
            name=name,
        )
        error.iris_reason = reason  # type: ignore[attr-defined] # tells run_callable.py that the text already contains advice
        raise error
