"""The internal API: routes found by category, and a server for them. Needs the extra `api`.

Imported by `cli`.
"""

from __future__ import annotations

from .api_registry import APIRegistry, register_router
from .api_server import InternalAPIServer
from .application import create_app
from .server_config import APIServerConfig
from .state import Manager, attach

__all__ = [
    "APIRegistry",
    "APIServerConfig",
    "InternalAPIServer",
    "Manager",
    "attach",
    "create_app",
    "register_router",
]
