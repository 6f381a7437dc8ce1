"""Classes that other people wrote: how they are found, imported, made, called and held to the contract.

Imported by `manager`, `compat`, `engines`, `cli` and `lmcache_connect_external`.
"""

from __future__ import annotations

from .adapter import ForeignAdapter, answers
from .dialect import Dialect
from .making import adopt_connector, make_connector
from .plugin import Plugin, settings_of
from .plugin_class import LOOP_IMPORT_SECONDS, PluginClass
from .plugin_table import PluginTable

__all__ = [
    "LOOP_IMPORT_SECONDS",
    "Dialect",
    "ForeignAdapter",
    "Plugin",
    "PluginClass",
    "PluginTable",
    "adopt_connector",
    "answers",
    "make_connector",
    "settings_of",
]
