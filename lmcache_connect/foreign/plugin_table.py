"""`PluginTable`: the plug-ins that a configuration names."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from ..config import ConnectorConfig
from ..contract import ConnectorAdapter
from ..errors import UnknownSchemeError
from ..url import RemoteURL
from .adapter import answers
from .plugin import SCHEME, Plugin, settings_of


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
        """All plug-ins, loaded or not, in the configuration's order."""
        return tuple(self._plugins.values())

    def load(self) -> None:
        """Loads the plug-ins that are not loaded. Blocks for `import_timeout` each at most. Never raises."""
        for plugin in self._plugins.values():
            if plugin.adapter is None:
                plugin.load(self._settings.import_timeout, self._settings)

    def load_for(self, url: RemoteURL) -> None:
        """`load`, where of those that failed before only the one that the URL names is tried again.

        A broken plug-in would otherwise take its time at each connector that is made.
        """
        for plugin in self._plugins.values():
            is_wanted = url.scheme == SCHEME and url.host == plugin.name
            if plugin.adapter is None and (plugin.failure is None or is_wanted):
                plugin.load(self._settings.import_timeout, self._settings)

    def find(self, url: RemoteURL) -> tuple[ConnectorAdapter, str] | None:
        """The adapter that answers for a URL, of those that are loaded, and its plug-in's name; None where none does.

        `plugin://type[.instance]` is answered by the plug-in of this name. Where no plug-in has it, and for any other
        URL, the first adapter answers whose `can_parse` says so.

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
            if adapter is not None and answers(adapter, raw):
                return adapter, wanted or plugin.name
        if wanted is not None and self._plugins:
            raise UnknownSchemeError(
                url.redacted(), f"{SCHEME}://{wanted}", [f"{SCHEME}://{name}" for name in self._plugins]
            )
        return None

    def __repr__(self) -> str:
        loaded = sum(plugin.adapter is not None for plugin in self._plugins.values())
        return f"<PluginTable of {', '.join(self._plugins) or 'no plug-ins'}, {loaded} loaded>"
