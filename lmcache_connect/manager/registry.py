"""`AdapterRegistry`: which adapter answers for a scheme."""

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
from ..process import ModuleLock
from ..url import RemoteURL
from .adapter_target import AdapterTarget, adapter_of
from .builtin import ADAPTERS

ENTRY_POINT_GROUP: Final = "lmcache_connect.adapters"
"""An installable adapter declares `scheme = "package.module:AdapterClass"` in this group."""


class AdapterRegistry:
    """Schemes and the adapters that answer for them. Holds no connection. Thread-safe.

    `Resolver` says who is asked in which order: for a manager's registry, `default_registry` is the parent. An adapter
    is imported on first use. A miss is never remembered: a scheme that is registered or installed later is found.
    """

    def __init__(self, parent: AdapterRegistry | None = None) -> None:
        self._parent = parent
        # One without a parent is a module's: a fork uses it as well.
        self._lock = threading.RLock() if parent is not None else ModuleLock()
        self._registered: dict[str, ConnectorAdapter] = {}
        self._loaded: dict[str, ConnectorAdapter] = {}

    def register(self, adapter: ConnectorAdapter | type[ConnectorAdapter], *, replace: bool = False) -> None:
        """Adds an adapter, given as an instance or as a class without arguments, for all of its schemes.

        With `replace` it takes the place of the adapter that answered so far, here and for this registry's children.

        Raises:
            DuplicateSchemeError: one of its schemes is taken, also by a built-in adapter, and `replace` is False.
            AmbiguousSchemeError: one is claimed by several installed packages, and `replace` is False.
            ConnectorContractError: it is not an adapter, or it names no scheme.
        """
        instance = adapter_of(adapter)
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
        """Removes what `register()` was given for a scheme. Returns whether there was anything."""
        with self._lock:
            return self._registered.pop(scheme, None) is not None

    def schemes(self) -> list[str]:
        """Every scheme that can be looked up now, sorted. Imports nothing."""
        registered = set().union(*self._registrations())
        return sorted({*registered, *ADAPTERS, *(target.scheme for target in self.installed())})

    @staticmethod
    def installed() -> list[AdapterTarget]:
        """Where the adapter of every installed entry point is, sorted by scheme. Imports nothing."""
        # Read each time: a package may be installed while the process runs, and a miss must not be remembered.
        found = [
            AdapterTarget(point.name, point.value, _owner(point)) for point in entry_points(group=ENTRY_POINT_GROUP)
        ]
        return sorted(found, key=lambda target: (target.scheme, target.target, target.distribution))

    def describe(self, scheme: str) -> str | None:
        """Who answers for a scheme, as text for people; None where there is no adapter. Imports nothing.

        Raises:
            AmbiguousSchemeError: installed packages claim it for different adapters.
        """
        for name in scheme_names(scheme):
            if (adapter := self._registered_for(name)) is not None:
                return f"{type(adapter).__module__}.{type(adapter).__qualname__}"
            if (target := self._target(name)) is not None:
                return str(target)
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
        """The adapter for a scheme, or for a family as `schemes()` names it; None where nothing answers for it.

        It is imported where this is its first use.

        Raises:
            AmbiguousSchemeError, AdapterLoadError: as `find` does.
        """
        with self._lock:
            for name in scheme_names(scheme):
                if (adapter := self._registered_for(name) or self._loaded.get(name)) is not None:
                    return adapter
                if (target := self._target(name)) is not None:
                    return self._loaded.setdefault(name, target.load())
        return None

    def _registrations(self) -> Iterator[dict[str, ConnectorAdapter]]:
        yield self._registered
        if self._parent is not None:
            yield from self._parent._registrations()

    def _registered_for(self, name: str) -> ConnectorAdapter | None:
        return next((registered[name] for registered in self._registrations() if name in registered), None)

    def _asked(self, url: RemoteURL) -> ConnectorAdapter | None:
        """The registered adapter written for LMCache that says it can parse the URL: it can name one scheme only."""
        raw = url.raw.get_secret_value()
        for registered in self._registrations():
            for adapter in dict.fromkeys(registered.values()):
                if isinstance(adapter, ForeignAdapter) and answers(adapter, raw):
                    return adapter
        return None

    def _target(self, scheme: str) -> AdapterTarget | None:
        if (builtin := ADAPTERS.get(scheme)) is not None:
            return builtin
        found = [target for target in self.installed() if target.scheme == scheme]
        owners: dict[str, list[str]] = {}
        for target in found:
            owners.setdefault(target.target, []).append(target.distribution)
        if len(owners) > 1:
            # Choosing for the operator could reach the wrong store.
            raise AmbiguousSchemeError(scheme, [f"{target} ({', '.join(names)})" for target, names in owners.items()])
        return found[0] if found else None

    def __repr__(self) -> str:
        registered = sorted(set().union(*self._registrations()))
        return f"<AdapterRegistry {', '.join(registered) or 'nothing'} registered, {len(self._loaded)} loaded>"


default_registry: Final = AdapterRegistry()
"""What `register_adapter` fills: adapters for every manager of the process."""


def register_adapter(adapter: ConnectorAdapter | type[ConnectorAdapter], *, replace: bool = False) -> None:
    """Registers an adapter for every manager of the process; see `AdapterRegistry.register`."""
    default_registry.register(adapter, replace=replace)


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"
