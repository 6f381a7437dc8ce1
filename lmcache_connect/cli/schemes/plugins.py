"""`lmcache-connect plugins`: the plug-ins of the configuration, the installed ones, and whether they load."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

from ...config import ConnectorConfig
from ...errors import LMCacheConnectError
from ...foreign import PluginTable
from ...manager import AdapterRegistry, AdapterTarget, default_registry


@dataclass(frozen=True)
class PluginReport:
    """One plug-in. `error` says why it does not load, and is None where it does.

    `source` is `configuration`, or the name of the distribution that has its entry point.
    """

    url: str
    target: str
    source: str
    error: str | None = None

    @property
    def loads(self) -> bool:
        """Whether its class can be imported and used."""
        return self.error is None


def list_plugins(config: ConnectorConfig, registry: AdapterRegistry = default_registry) -> list[PluginReport]:
    """The plug-ins of the configuration in its order, then the installed adapters by scheme. Opens no connection."""
    # What a plug-in prints during its import must not end up in a JSON document on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        table = PluginTable(config, config)
        table.load()
        named = [
            PluginReport(
                f"plugin://{plugin.name}",
                plugin.target,
                "configuration",
                None if plugin.failure is None else str(plugin.failure),
            )
            for plugin in table.plugins
        ]
        return named + [_installed(registry, target) for target in registry.installed()]


def _installed(registry: AdapterRegistry, target: AdapterTarget) -> PluginReport:
    error = None
    try:
        registry.load(target.scheme)
    except LMCacheConnectError as failure:
        error = str(failure)
    return PluginReport(f"{target.scheme}://", target.target, target.distribution, error)
