"""`PluginClass`: a class from another package, imported by its name, in a thread and within a time limit."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Final

from ..errors import PluginClassMissingError, PluginConstructionError, PluginError, PluginImportError, PluginTypeError
from ..process import ModuleLock
from .connector import missing_methods

LOOP_IMPORT_SECONDS: Final = 0.04
"""Seconds that an import may block an event loop, where nothing has imported the module in advance."""

_lock = ModuleLock()
_loading: dict[PluginClass, Future[Any]] = {}
"""Imports under way. Of the process and not of an object, as `sys.modules` is: an import that hangs keeps its thread
and its entry, so that no other manager starts it a second time."""

os.register_at_fork(after_in_child=_loading.clear)  # their threads are the parent's


@dataclass(frozen=True)
class PluginClass:
    """Where a class is. Nothing is imported before `load`."""

    module: str
    class_name: str

    @classmethod
    def at(cls, path: str, class_name: str) -> PluginClass:
        """The class of this name in the module at `path`, with dots or slashes between its parts.

        Raises:
            PluginImportError: the path cannot be a module's name.
            PluginClassMissingError: the name cannot be a class's.
        """
        module = path.strip("/").replace("/", ".")
        if not module or not all(part.isidentifier() for part in module.split(".")):
            raise PluginImportError(
                module, class_name, "", f"{module!r} is not a module's name, such as package.module"
            )
        if not class_name.isidentifier():
            raise PluginClassMissingError(module, class_name, "", f"{class_name!r} cannot be a class's name")
        return cls(module, class_name)

    def load(self, timeout: float, allowed_modules: Collection[str] | None = None) -> type[Any]:
        """The class, imported in a thread where this is its first use.

        Blocks for `timeout` seconds at most. An import that takes longer goes on, and a later call finds its result.

        Raises:
            PluginImportError: the module is not one of `allowed_modules`, takes too long, or cannot be imported.
            PluginClassMissingError: it has nothing of this name.
            PluginTypeError: what has this name is not a class.
        """
        if allowed_modules is not None and self.module not in allowed_modules:
            allowed = ", ".join(sorted(allowed_modules)) or "none"
            raise self.import_error(f"its module is not allowed; allowed_modules names {allowed}")
        with _lock:
            loading = _loading.get(self)
            if loading is None:
                loading = _loading[self] = Future()
                # A daemon, so that a module that never ends does not keep the process alive.
                thread = threading.Thread(
                    target=self._import, args=(loading,), name=f"import {self.module}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads: the entry would never be resolved
                    del _loading[self]
                    raise self.import_error(f"no thread for importing it could be started: {error}") from error
        try:
            kind = loading.result(timeout)
        except FutureTimeoutError:
            raise self.import_error(
                f"importing it did not end within {timeout:.2g} s, and goes on in a thread"
            ) from None

        if not isinstance(kind, type):
            raise self.type_error(f"it is a {type(kind).__qualname__}; expected a class")
        return kind

    def check_connector(self, kind: type[Any]) -> None:
        """Checks that a class has the methods of a connector, whatever it derives from.

        Raises:
            PluginTypeError: it lacks some.
        """
        if lacking := missing_methods(kind):
            raise self.type_error(f"it is not a connector: it has no {', '.join(lacking)}()")

    def _import(self, loading: Future[Any]) -> None:
        result: Any = None
        failure: PluginError | None = None
        try:
            found = importlib.import_module(self.module)
        except BaseException as error:  # SystemExit as well: a plug-in must not end the process
            failure = self.import_error(f"importing it raised {type(error).__name__}: {error}", self._distribution())
            failure.__cause__ = error.with_traceback(None)
        else:
            try:
                result = getattr(found, self.class_name)
            except BaseException as error:
                failure = PluginClassMissingError(
                    self.module, self.class_name, self._distribution(), "its module has nothing of this name"
                )
                failure.__cause__ = error.with_traceback(None)
        with _lock:
            del _loading[self]  # a failure is not remembered: the module may be mended
        if failure is None:
            loading.set_result(result)
        else:
            loading.set_exception(failure)

    def make(self, kind: Any, usual: Mapping[str, Any], further: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """An instance, given the arguments that its constructor asks for by name.

        A constructor with `**kwargs` is given all of `usual` and `options`, and of `further` what it names.

        Raises:
            PluginTypeError: it asks for something that none of the three has.
            PluginConstructionError: it raised.
        """
        try:
            parameters = inspect.signature(kind).parameters.values()
        except (TypeError, ValueError):  # a class written in C may have no signature
            parameters = inspect.signature(_takes_all).parameters.values()
        positional: list[Any] = []
        named: dict[str, Any] = {}
        given = {**options, **further, **usual}
        missing: list[str] = []
        for parameter in parameters:
            if parameter.kind is parameter.VAR_KEYWORD:
                named = {**options, **usual, **named}
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                if parameter.name in given:
                    if parameter.kind is parameter.POSITIONAL_ONLY:
                        positional.append(given[parameter.name])
                    else:
                        named[parameter.name] = given[parameter.name]
                elif parameter.default is parameter.empty:
                    missing.append(parameter.name)
        if missing:
            raise self.type_error(
                f"it takes {', '.join(missing)}; it can be given {', '.join((*usual, *further))}, and the URL's options"
            )
        try:
            return kind(*positional, **named)
        except Exception as error:
            raise PluginConstructionError(
                self.module, self.class_name, self._distribution(), f"making it raised {type(error).__name__}: {error}"
            ) from error
        except SystemExit as error:
            raise PluginConstructionError(
                self.module, self.class_name, self._distribution(), f"making it raised SystemExit({error.code!r})"
            ) from error

    def import_error(self, reason: str, distribution: str = "") -> PluginImportError:
        """The error for a class that cannot be imported."""
        return PluginImportError(self.module, self.class_name, distribution, reason)

    def type_error(self, reason: str) -> PluginTypeError:
        """The error for a class that cannot be used."""
        return PluginTypeError(self.module, self.class_name, self._distribution(), reason)

    def _distribution(self) -> str:
        try:
            owners = importlib.metadata.packages_distributions().get(self.module.partition(".")[0], ())
        except Exception:  # another package's broken metadata must not hide the error at hand
            return ""
        return ", ".join(dict.fromkeys(owners))


def _takes_all(**_: Any) -> None: ...
