"""The internal API: routes found by category, and a server for them. Needs the extra `api`."""

from __future__ import annotations

from .api_registry import APICategory, APIRegistry, RegisteredAPI, register_router, unregister_router
from .api_server import InternalAPIServer
from .application import create_app
from .server_config import APIServerConfig
from .state import APIState, Manager, State, attach

__all__ = [
    "APICategory",
    "APIRegistry",
    "APIServerConfig",
    "APIState",
    "InternalAPIServer",
    "Manager",
    "RegisteredAPI",
    "State",
    "attach",
    "create_app",
    "register_router",
    "unregister_router",
]
