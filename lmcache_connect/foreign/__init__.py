"""Classes that other people wrote: how they are found, imported, made, spoken to and held to the contract.

Imported by `manager`, by `compat`, and by the external adapter.
"""

from __future__ import annotations

from .adapter import ForeignAdapter, answers
from .connector import adopt_connector, make_connector
from .dialect import Dialect, install_lmcache_names
from .plugin_class import LOOP_PATIENCE, PluginClass
from .plugin_table import Plugin, PluginTable, settings_of

__all__ = [
    "LOOP_PATIENCE",
    "Dialect",
    "ForeignAdapter",
    "Plugin",
    "PluginClass",
    "PluginTable",
    "adopt_connector",
    "answers",
    "install_lmcache_names",
    "make_connector",
    "settings_of",
]
