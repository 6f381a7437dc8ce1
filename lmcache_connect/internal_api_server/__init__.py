"""The internal API: routes found by category, and a server for them. Needs the extra `api`."""

from __future__ import annotations

from .api_registry import APICategory, APIRegistry, RegisteredAPI, register_router, unregister_router

__all__ = [
    "APICategory",
    "APIRegistry",
    "RegisteredAPI",
    "register_router",
    "unregister_router",
]
