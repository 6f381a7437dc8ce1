"""`Resolver`: finds what answers for a URL, and makes its plan."""

from __future__ import annotations

from typing import Any

from ..config import ConnectorConfig
from ..contract import ConnectorAdapter
from ..errors import InvalidURLError
from ..foreign import PluginTable
from ..url import RemoteURL
from .plan import Plan
from .registry import AdapterRegistry


class Resolver:
    """Makes plans from a manager's registry and its plug-ins.

    For each URL these are asked, in this order, and the first that answers is taken:

    1. The plug-in that `plugin://name` names: the URL itself says who is meant.
    2. The adapters of the configured plug-ins, in the configuration's order, by `can_parse`. The operator has named
       them for this process, so they come before everything that is merely known.
    3. The registry, by the exact scheme: what this manager's `register()` was given, what `register_adapter()` was
       given, the built-in table, installed entry points. What is closer to the application comes first. All of these
       are asked for the scheme itself before any is asked for its family, `name+<scheme>`.
    4. Registered adapters that were written for LMCache, by `can_parse`: they can name one scheme only, and may answer
       for more. They come last, because what they answer for is known only by asking.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        plugins: PluginTable,
        settings: ConnectorConfig,
        config: Any,
        plugin_name: str | None,
    ) -> None:
        """`config` is the application's object, `settings` the toolkit's `ConnectorConfig`. Both reach adapters.

        `plugin_name`: what connectors that do not come from a plug-in are told as their plug-in's name.
        """
        self._registry = registry
        self._plugins = plugins
        self._settings = settings
        self._config = config
        self._plugin_name = plugin_name

    def plan(self, url: RemoteURL) -> Plan:
        """The plan of a URL, with everything imported and every option validated that it needs.

        Blocks while plug-ins are imported: for `import_timeout` each at most.

        Raises:
            UnknownSchemeError: nothing answers for the URL, or for one inside it.
            UnknownOptionError, InvalidOptionError: an option is wrong.
            InvalidURLError: the URL of a wrapper names no other URL, or the wrapper stands around one of its kind.
            AdapterLoadError, AmbiguousSchemeError, PluginError, InvalidConfigError: what answers cannot be loaded.
        """
        self._plugins.load_for(url)
        return self._planned(url, ())

    def prepare(self, url: RemoteURL) -> None:
        """Imports in advance what `plan` and the adapters need. Validates no option. Blocks as `plan` does.

        Raises:
            As `plan` does, and what an adapter's `prepare` raises.
        """
        self._plugins.load()
        self._prepare(url, ())

    def _planned(self, url: RemoteURL, around: tuple[ConnectorAdapter, ...]) -> Plan:
        adapter, plugin_name = self._find(url)
        inside = self._inner_urls(url, adapter, around)
        # Inner URLs are validated before the outer one.
        inner = tuple(self._planned(each, (*around, adapter)) for each in inside)
        return Plan(url, adapter, plugin_name, adapter.parse_options(url), inner)

    def _prepare(self, url: RemoteURL, around: tuple[ConnectorAdapter, ...]) -> None:
        adapter, _ = self._find(url)
        adapter.prepare(url, self._settings)
        for each in self._inner_urls(url, adapter, around):
            self._prepare(each, (*around, adapter))

    def _find(self, url: RemoteURL) -> tuple[ConnectorAdapter, str | None]:
        return self._plugins.find(url) or (self._registry.find(url), self._plugin_name)

    def _inner_urls(
        self, url: RemoteURL, adapter: ConnectorAdapter, around: tuple[ConnectorAdapter, ...]
    ) -> tuple[RemoteURL, ...]:
        inner = adapter.wrapped_urls(url, self._config)
        # A wrapper whose inner URL comes from the configuration could otherwise stand around itself without an end.
        if inner and any(type(adapter) is type(outer) for outer in around):
            raise InvalidURLError(
                url.redacted(), f"{url.scheme}:// stands around one of its kind", "each kind of wrapper once"
            )
        return inner
