"""From a URL to a plan, from a plan to live connectors: the manager, the registry of schemes, the announcer.

Every package above may import it.
"""

from __future__ import annotations

from .adapter_target import AdapterTarget
from .manager import ConnectorManager
from .one_connector import CreateConnector, create_connector
from .registry import AdapterRegistry, default_registry, register_adapter
from .unknown_variables import tell_unknown_variables, variables_not_read

__all__ = [
    "AdapterRegistry",
    "AdapterTarget",
    "ConnectorManager",
    "CreateConnector",
    "create_connector",
    "default_registry",
    "register_adapter",
    "tell_unknown_variables",
    "variables_not_read",
]
