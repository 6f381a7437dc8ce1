"""Classes that other people wrote: how they are found, imported, made, called and held to the contract.

Imported by `managed`, `manager`, `compat`, `engines`, `cli`, `lmcache_connect_external` and `lmcache_connect_redis`.
"""

from __future__ import annotations

from .adapter import ForeignAdapter, answers
from .connector import ForeignConnector
from .dialect import Dialect
from .making import adopt_connector, make_connector
from .outside_connector import OutsideConnector
from .plugin import Plugin, settings_of
from .plugin_class import PluginClass
from .plugin_table import PluginTable

__all__ = [
    "Dialect",
    "ForeignAdapter",
    "ForeignConnector",
    "OutsideConnector",
    "Plugin",
    "PluginClass",
    "PluginTable",
    "adopt_connector",
    "answers",
    "make_connector",
    "settings_of",
]
