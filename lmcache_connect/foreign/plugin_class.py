"""`PluginClass`: a class from another package, imported by its name, in a thread and within a time limit."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from ..errors import (
    PluginClassMissingError,
    PluginConstructionError,
    PluginImportError,
    PluginTypeError,
    StoreError,
)
from ..outside import Lane, described
from .connector import missing_methods
from .loading import CircularImportError, Loading

_imports: Final = Lane("imports", 16)
_lock = threading.Lock()
_loading: dict[PluginClass, Loading] = {}
"""Imports under way. Of the process and not of an object, as `sys.modules` is: an import that hangs keeps its thread
and its entry, so that no other manager starts it a second time."""


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
        """The class, imported in a thread where this is its first use. See `load_any`.

        Raises:
            PluginTypeError: what has this name is not a class. What `load_any` raises.
        """
        kind: type[Any] = self.load_any(timeout, allowed_modules)
        with self._looking():
            is_class = isinstance(kind, type)
        if not is_class:
            raise self.type_error(f"it is a {type(kind).__qualname__}; expected a class")
        return kind

    def load_any(self, timeout: float, allowed_modules: Collection[str] | None = None) -> Any:
        """Whatever has the class's name, which may be a function.

        Blocks for `timeout` seconds at most. An import that takes longer goes on, and a later call finds its result.

        Raises:
            PluginImportError: the module is not one of `allowed_modules`, takes too long, or cannot be imported.
            PluginClassMissingError: it has nothing of this name.
        """
        if allowed_modules is not None and self.module not in allowed_modules:
            allowed = ", ".join(sorted(allowed_modules)) or "none"
            raise self.import_error(f"its module is not allowed; allowed_modules names {allowed}")
        with _lock:
            loading = _loading.get(self)
            if loading is None:
                try:
                    begun = _imports.begin(f"import {self.module}", self._import)
                except (RuntimeError, StoreError) as error:  # too many hang, or no further thread can be started
                    raise self.import_error(f"no thread for importing it could be started: {error}") from error
                loading = _loading[self] = Loading(self.module, begun)
        return self._awaited(loading, timeout)

    def check_connector(self, kind: type[Any]) -> None:
        """Checks that a class has the methods of a connector, whatever it derives from.

        Raises:
            PluginTypeError: it lacks some.
        """
        with self._looking():
            lacking = missing_methods(kind)
        if lacking:
            raise self.type_error(f"it is not a connector: it has no {', '.join(lacking)}()")

    def _awaited(self, loading: Loading, timeout: float) -> Any:
        try:
            return loading.wait(timeout)
        except CircularImportError as cycle:
            raise self.import_error(f"importing it waits for itself: {cycle}") from None
        except TimeoutError:
            if loading.is_done:  # it raised that itself
                raise
        because = loading.waits_for()
        raise self.import_error(f"importing it did not end within {timeout:.2g} s, and goes on in a thread{because}")

    def _import(self) -> Any:
        try:
            try:
                found = importlib.import_module(self.module)
            except BaseException as error:  # SystemExit as well: a plug-in must not end the process
                raise self.import_error(
                    f"importing it raised {described(error)}", self._distribution()
                ) from error.with_traceback(None)
            try:
                return getattr(found, self.class_name)
            except BaseException as error:
                raise PluginClassMissingError(
                    self.module, self.class_name, self._distribution(), "its module has nothing of this name"
                ) from error.with_traceback(None)
        finally:
            with _lock:
                _loading.pop(self, None)  # a failure is not remembered: the module may be mended

    def make(self, kind: Any, usual: Mapping[str, Any], further: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """An instance, given the arguments that its constructor asks for by name.

        A constructor with `**kwargs` is given all of `usual` and `options`, and of `further` what it names.

        Raises:
            PluginTypeError: it asks for something that none of the three has.
            PluginConstructionError: it raised.
        """
        with self._looking():
            parameters = _parameters(kind)
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
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit as well: a plug-in must not end the process
            how = f"making it raised {described(error)}"
            raise PluginConstructionError(self.module, self.class_name, self._distribution(), how) from error

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Around a look at the class: its metaclass may raise anything."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self.type_error(f"looking at it raised {described(error)}") from error

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


def _parameters(kind: Any) -> Collection[inspect.Parameter]:
    """What a constructor asks for.

    A metaclass whose `__call__(cls, *args, **kwargs)` says nothing hides the class's own `__init__` and `__new__`. It
    is their arguments that count.
    """
    ways: list[Any] = [kind, getattr(kind, "__init__", None), getattr(kind, "__new__", None)]
    for asked in ways:
        try:
            found = list(inspect.signature(asked).parameters.values())
        except (TypeError, ValueError):  # a class written in C may have no signature
            continue
        if asked is not kind:
            found = found[1:]  # self, or the class
        if any(parameter.kind not in _ANY for parameter in found) or (not found and asked is kind):
            return found
    return list(inspect.signature(_takes_all).parameters.values())


_ANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _takes_all(**_: Any) -> None: ...
