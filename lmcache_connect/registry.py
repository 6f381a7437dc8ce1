"""Which adapter answers for a scheme: the built-in table, installed entry points, and `register()`."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from .adapter import ANY_SCHEME, ConnectorAdapter, scheme_names
from .errors import (
    AdapterLoadError,
    AmbiguousSchemeError,
    ConnectorContractError,
    DuplicateSchemeError,
    UnknownSchemeError,
)
from .foreign_adapter import ForeignAdapter, answers
from .url import RemoteURL

ENTRY_POINT_GROUP: Final = "lmcache_connect.adapters"
"""An installable adapter declares `scheme = "package.module:AdapterClass"` in this group."""

_DISTRIBUTION: Final = "lmcache-connect"


@dataclass(frozen=True)
class AdapterTarget:
    """Where an adapter class is, without importing it. `extra` is what its driver is installed by."""

    scheme: str
    target: str
    distribution: str
    extra: str | None = None

    def load(self) -> ConnectorAdapter:
        """An instance of the class.

        Raises:
            AdapterLoadError: the module, its driver or the class cannot be imported, or is no adapter.
        """
        module, _, attribute = self.target.partition(":")
        try:
            found: Any = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            extra = self.extra if error.name is None or not _is_within(module, error.name) else None
            raise self._error(str(error), extra) from error
        except AttributeError as error:
            raise self._error(str(error)) from error
        except (Exception, SystemExit) as error:
            raise self._error(f"importing it raised {type(error).__name__}: {error}") from error
        return adapter_instance(found, self._error)

    def _error(self, reason: str, extra: str | None = None) -> AdapterLoadError:
        return AdapterLoadError(self.scheme, self.target, self.distribution, reason, extra)


_REDIS: Final = "lmcache_connect_redis.adapter:RedisConnectorAdapter"
_AUDIT: Final = "lmcache_connect_composition.audit_adapter:AuditConnectorAdapter"
_BUILTIN: Final = {
    item.scheme: item
    for item in (
        AdapterTarget("redis", _REDIS, _DISTRIBUTION, "redis"),
        AdapterTarget("rediss", _REDIS, _DISTRIBUTION, "redis"),
        AdapterTarget("unix", _REDIS, _DISTRIBUTION, "redis"),
        AdapterTarget("valkey", _REDIS, _DISTRIBUTION, "redis"),
        AdapterTarget("valkeys", _REDIS, _DISTRIBUTION, "redis"),
        AdapterTarget("s3", "lmcache_connect_s3.adapter:S3ConnectorAdapter", _DISTRIBUTION, "s3"),
        AdapterTarget("external", "lmcache_connect_external.adapter:ExternalConnectorAdapter", _DISTRIBUTION),
        AdapterTarget("audit", _AUDIT, _DISTRIBUTION),
        AdapterTarget(f"audit+{ANY_SCHEME}", _AUDIT, _DISTRIBUTION),
        AdapterTarget("blackhole", "lmcache_connect_composition.blackhole:BlackholeConnectorAdapter", _DISTRIBUTION),
        AdapterTarget(
            f"fault+{ANY_SCHEME}", "lmcache_connect_composition.fault_adapter:FaultConnectorAdapter", _DISTRIBUTION
        ),
        AdapterTarget("mock", "lmcache_connect_composition.mock:MockConnectorAdapter", _DISTRIBUTION),
        AdapterTarget("memory", "lmcache_reference_connectors.memory:MemoryConnectorAdapter", _DISTRIBUTION),
    )
}


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
        return sorted({*registered, *_BUILTIN, *(point.name for point in _entry_points())})

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
        if (builtin := _BUILTIN.get(scheme)) is not None:
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


def adapter_instance(adapter: object, error: Any = None) -> ConnectorAdapter:
    """An adapter for an instance, or for a class that takes no arguments, also where it derives from nothing here.

    Raises:
        ConnectorContractError, or what `error(reason)` gives: it is neither.
    """
    name = getattr(adapter, "__qualname__", type(adapter).__qualname__)
    if isinstance(adapter, type) and (issubclass(adapter, ConnectorAdapter) or ForeignAdapter.is_adapter(adapter)):
        try:
            adapter = adapter()
        except Exception as failure:
            reason = f"cannot be made without arguments: {failure}"
            contract = ConnectorContractError(name, "__init__", reason, "a class that takes no arguments")
            raise (error(reason) if error is not None else contract) from failure
    if not isinstance(adapter, ConnectorAdapter) and ForeignAdapter.is_adapter(adapter):
        adapter = ForeignAdapter(adapter)
    if not isinstance(adapter, ConnectorAdapter):
        reason = f"{name} is no ConnectorAdapter"
        contract = ConnectorContractError(name, "adapter", "is no ConnectorAdapter", "a subclass of it, or an instance")
        raise error(reason) if error is not None else contract
    return adapter


def _entry_points() -> tuple[EntryPoint, ...]:
    # Read anew each time: a package may be installed while the process runs, and a miss must not stick.
    found = entry_points(group=ENTRY_POINT_GROUP)
    return tuple(sorted(found, key=lambda point: (point.name, point.value, _owner(point))))


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
