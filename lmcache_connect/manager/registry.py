"""Which adapter answers for a scheme: the built-in table, installed entry points, and `register()`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from ..contract import ConnectorAdapter, scheme_names
from ..errors import (
    AmbiguousSchemeError,
    ConnectorContractError,
    DuplicateSchemeError,
    UnknownSchemeError,
)
from ..foreign import ForeignAdapter, answers
from ..url import RemoteURL
from .adapter_target import AdapterTarget, adapter_instance
from .builtin import BUILTIN

ENTRY_POINT_GROUP: Final = "lmcache_connect.adapters"
"""An installable adapter declares `scheme = "package.module:AdapterClass"` in this group."""


class AdapterRegistry:
    """Schemes and their adapters: recipes, without any connection. Thread-safe.

    Looked up in this order: what `register()` was given here, then what the parent registry was given, then the
    built-in table, then installed entry points; and all of them for the scheme itself before any of them for its
    family, which is `name+<scheme>` for `name+redis`. Adapters are imported on first use; a miss is never cached.
    """

    def __init__(self, parent: AdapterRegistry | None = None) -> None:
        self._parent = parent
        self._lock = threading.RLock()
        self._registered: dict[str, ConnectorAdapter] = {}
        self._loaded: dict[str, ConnectorAdapter] = {}

    def register(self, adapter: ConnectorAdapter | type[ConnectorAdapter], *, replace: bool = False) -> None:
        """Adds an adapter, given as an instance or as a class without arguments, for all of its schemes.

        Raises:
            DuplicateSchemeError: one of its schemes is taken, also by a built-in adapter, and `replace` is False.
            AmbiguousSchemeError: one is claimed by several installed packages, and `replace` is False.
            ConnectorContractError: it is no adapter, or it names no scheme.
        """
        instance = adapter_instance(adapter)
        schemes = instance.known_schemes()
        name = type(instance).__qualname__
        if not schemes:
            raise ConnectorContractError(name, "schema", "names no scheme", "a schema such as 'mystore://'")
        with self._lock:
            if not replace:
                for scheme in schemes:
                    if (taken := self.describe(scheme)) is not None:
                        raise DuplicateSchemeError(scheme, taken, name)
            for scheme in schemes:
                self._registered[scheme] = instance

    def unregister(self, scheme: str) -> bool:
        """Takes back what `register()` was given for a scheme; whether there was anything."""
        with self._lock:
            return self._registered.pop(scheme, None) is not None

    def schemes(self) -> list[str]:
        """Every scheme that can be looked up now, sorted. Imports nothing."""
        registered = set().union(*self._registrations())
        return sorted({*registered, *BUILTIN, *(point.name for point in _entry_points())})

    def installed(self) -> list[tuple[str, str, str]]:
        """Scheme, target and distribution of every entry point, sorted. Imports nothing."""
        return [(point.name, point.value, _owner(point)) for point in _entry_points()]

    def describe(self, scheme: str) -> str | None:
        """Who answers for a scheme, as text, or None. Imports nothing.

        Raises:
            AmbiguousSchemeError: installed packages claim it for different adapters.
        """
        for name in scheme_names(scheme):
            for registered in self._registrations():
                if (adapter := registered.get(name)) is not None:
                    return f"{type(adapter).__module__}.{type(adapter).__qualname__}"
            if (target := self._target(name)) is not None:
                return f"{target.target} ({target.distribution})"
        return None

    def find(self, url: RemoteURL) -> ConnectorAdapter:
        """The adapter for a URL's scheme, imported where this is its first use.

        Raises:
            UnknownSchemeError: with the schemes that are known.
            AmbiguousSchemeError: installed packages claim it for different adapters.
            AdapterLoadError: it is known and cannot be imported.
        """
        adapter = self.load(url.scheme)
        if adapter is None:
            with self._lock:
                adapter = self._asked(url)
        if adapter is None:
            raise UnknownSchemeError(url.redacted(), url.scheme, self.schemes())
        return adapter

    def load(self, scheme: str) -> ConnectorAdapter | None:
        """The adapter for a scheme, or for one as `schemes()` names it, imported where this is its first use; or None.

        Raises:
            AmbiguousSchemeError, AdapterLoadError: as `find` does.
        """
        with self._lock:
            for name in scheme_names(scheme):
                for registered in self._registrations():
                    if (adapter := registered.get(name)) is not None:
                        return adapter
                if (adapter := self._loaded.get(name)) is not None:
                    return adapter
                if (target := self._target(name)) is not None:
                    return self._loaded.setdefault(name, target.load())
        return None

    def _registrations(self) -> Iterator[dict[str, ConnectorAdapter]]:
        yield self._registered
        if self._parent is not None:
            yield from self._parent._registrations()

    def _asked(self, url: RemoteURL) -> ConnectorAdapter | None:
        # An adapter written for LMCache may know more URLs than the one `schema` that it can name.
        raw = url.raw.get_secret_value()
        for registered in self._registrations():
            for adapter in dict.fromkeys(registered.values()):
                if isinstance(adapter, ForeignAdapter) and answers(adapter, raw):
                    return adapter
        return None

    def _target(self, scheme: str) -> AdapterTarget | None:
        if (builtin := BUILTIN.get(scheme)) is not None:
            return builtin
        owners: dict[str, list[str]] = {}
        for point in _entry_points():
            if point.name == scheme:
                owners.setdefault(point.value, []).append(_owner(point))
        if len(owners) > 1:
            # Choosing for the operator could reach the wrong store.
            raise AmbiguousSchemeError(scheme, [f"{value} ({', '.join(names)})" for value, names in owners.items()])
        return next((AdapterTarget(scheme, value, names[0]) for value, names in owners.items()), None)


default_registry: Final = AdapterRegistry()
"""What `register_adapter` fills: adapters for every manager of the process."""


def register_adapter(adapter: ConnectorAdapter | type[ConnectorAdapter], *, replace: bool = False) -> None:
    """Registers an adapter for every manager of the process; see `AdapterRegistry.register`."""
    default_registry.register(adapter, replace=replace)


def _entry_points() -> tuple[EntryPoint, ...]:
    # Read anew each time: a package may be installed while the process runs, and a miss must not stick.
    found = entry_points(group=ENTRY_POINT_GROUP)
    return tuple(sorted(found, key=lambda point: (point.name, point.value, _owner(point))))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"
