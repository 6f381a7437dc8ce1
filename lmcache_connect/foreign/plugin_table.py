"""`PluginTable`: the plug-ins that a configuration names, as LMCache's configuration does."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from ..config import ConnectorConfig
from ..contract import ConnectorAdapter, ConnectorContext, RemoteConnector
from ..errors import InvalidConfigError, PluginError, UnknownSchemeError
from ..observability import event
from ..url import RemoteURL
from .adapter import ForeignAdapter, answers
from .connector import make_connector
from .plugin_class import PluginClass

SCHEME: Final = "plugin"
_PREFIX: Final = "remote_storage_plugin."
_PLACE: Final = ("module_path", "class_name")


@dataclass
class Plugin:
    """One plug-in: `name`, or `name.instance` for one of several of the same type.

    `settings` are the entries `remote_storage_plugin.<type>.<setting>` and, before them,
    `remote_storage_plugin.<type>.<instance>.<setting>` of `extra_config`. `adapter` is there once it has loaded, and
    `failure` says why it has not.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    adapter: ConnectorAdapter | None = None
    failure: Exception | None = None

    @property
    def target(self) -> str:
        """Where its class is, as `module:class`; "" where the configuration does not say."""
        module, class_name = (self.settings.get(part) for part in _PLACE)
        return f"{module}:{class_name}" if module and class_name else ""

    def load(self, timeout: float, settings: ConnectorConfig) -> None:
        """Imports its class, and keeps the adapter or the failure. Never raises."""
        try:
            self.adapter = self._loaded(timeout, settings)
            self.failure = None
        except (PluginError, InvalidConfigError) as failure:
            if str(failure) != str(self.failure):
                event(logging.WARNING, "plugin_failed", plugin=self.name, error=str(failure))
            self.failure = failure

    def _loaded(self, timeout: float, settings: ConnectorConfig) -> ConnectorAdapter:
        for part in _PLACE:
            if not isinstance(self.settings.get(part), str) or not self.settings[part]:
                raise InvalidConfigError(f"extra_config.{_PREFIX}{self.name}.{part}", "it is missing, or no string")
        plugin = PluginClass.at(*(self.settings[part] for part in _PLACE))
        kind = plugin.load(timeout, settings.allowed_modules)
        if callable(getattr(kind, "create_connector", None)):
            made = plugin.make(kind, {}, {}, {})
            return made if isinstance(made, ConnectorAdapter) else ForeignAdapter(made)
        plugin.check_connector(kind)
        own = {name: value for name, value in self.settings.items() if name not in _PLACE}
        return _ClassAdapter(plugin, kind, own)


class PluginTable:
    """The plug-ins of one manager, in the order in which the configuration names them."""

    def __init__(self, config: Any, settings: ConnectorConfig) -> None:
        """`config` is a `ConnectorConfig`, or anything with `remote_storage_plugins` and `extra_config`."""
        self._settings = settings
        names = getattr(config, "remote_storage_plugins", None) or ()
        extra = getattr(config, "extra_config", None) or {}
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
        self._plugins = {name: Plugin(name, MappingProxyType(settings_of(name, extra))) for name in map(str, names)}

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """All of them, loaded or not."""
        return tuple(self._plugins.values())

    def load(self) -> None:
        """Loads those that have not been. Blocks, for `import_timeout` each at most. Never raises."""
        for plugin in self._plugins.values():
            if plugin.adapter is None:
                plugin.load(self._settings.import_timeout, self._settings)

    def load_briefly(self, url: RemoteURL, seconds: float) -> None:
        """`load` on an event loop, which waits for so long for all of them together.

        Of those that failed before, only the one that the URL names is tried again: it may just have been slow.
        """
        end = time.monotonic() + seconds
        for plugin in self._plugins.values():
            is_wanted = url.scheme == SCHEME and url.host == plugin.name
            if plugin.adapter is None and (plugin.failure is None or is_wanted):
                plugin.load(max(end - time.monotonic(), 0), self._settings)

    def find(self, url: RemoteURL) -> tuple[ConnectorAdapter, str] | None:
        """The adapter that answers for a URL, of those loaded, and its plug-in's name; None where none does.

        `plugin://name[.instance]` is answered by the plug-in of this name, or else by an adapter that says it can.

        Raises:
            PluginError, InvalidConfigError: the plug-in of this name has not loaded.
            UnknownSchemeError: no plug-in has this name.
        """
        raw = url.raw.get_secret_value()
        wanted = url.host if url.scheme == SCHEME else None
        if wanted is not None and (plugin := self._plugins.get(wanted)) is not None:
            if plugin.adapter is None:
                raise plugin.failure if plugin.failure is not None else UnknownSchemeError(url.redacted(), wanted, ())
            return plugin.adapter, plugin.name
        for plugin in self._plugins.values():
            adapter = plugin.adapter
            if adapter is not None and not isinstance(adapter, _ClassAdapter) and answers(adapter, raw):
                return adapter, wanted or plugin.name
        if wanted is not None and self._plugins:
            raise UnknownSchemeError(
                url.redacted(), f"{SCHEME}://{wanted}", [f"{SCHEME}://{name}" for name in self._plugins]
            )
        return None


class _ClassAdapter(ConnectorAdapter):
    """Makes connectors of a class that knows of no adapter."""

    schema = f"{SCHEME}://"

    def __init__(self, plugin: PluginClass, kind: type[Any], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self._plugin = plugin
        self._kind = kind
        self._settings = settings

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return make_connector(self._plugin, self._kind, context, self._settings)


def settings_of(name: str, extra: Mapping[Any, Any]) -> dict[str, Any]:
    """What `extra_config` says of a plug-in `name[.instance]`, by setting, without its prefix."""
    found: dict[str, Any] = {}
    for prefix in _prefixes(name):
        for key, value in extra.items():
            if isinstance(key, str) and key.startswith(prefix) and "." not in (setting := key[len(prefix) :]):
                found[setting] = value
    return found


def _prefixes(name: str) -> Iterable[str]:
    kind = name.partition(".")[0]
    return dict.fromkeys((f"{_PREFIX}{kind}.", f"{_PREFIX}{name}."))  # the instance's settings beat the type's
