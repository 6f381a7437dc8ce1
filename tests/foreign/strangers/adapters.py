"""Adapters as plug-ins bring them."""

from __future__ import annotations

from typing import Any

from lmcache_connect import ConnectorAdapter, ConnectorContext, RemoteConnector

from .duck import Duck
from .minimal import MinimalConnector


class MineAdapter(ConnectorAdapter):
    """Answers for its own scheme, for a built-in one, and for every plug-in of its type."""

    def can_parse(self, url: str) -> bool:
        return url.startswith(("mine://", "memory://", "plugin://mine"))

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        extra = context.config.extra_config
        folder = extra.get(f"remote_storage_plugin.{context.plugin_name}.folder")
        return MinimalConnector(context.loop, context.local_cpu_backend, None, folder=folder, url=context.url)


class DuckAdapter:
    """Derives from nothing, and makes what derives from nothing."""

    schema = "duck://"

    def can_parse(self, url: str) -> bool:
        if url.startswith("mine"):
            raise ValueError("stumbles over what is not its own")
        return url.startswith("duck://")

    def create_connector(self, context: Any) -> Any:
        return Duck(context.loop, context.local_cpu_backend, context.config)


class MinimalAdapter(ConnectorAdapter):
    """Answers for one scheme of its own."""

    schema = "minimal://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return MinimalConnector(context.loop, context.local_cpu_backend, context.config)
