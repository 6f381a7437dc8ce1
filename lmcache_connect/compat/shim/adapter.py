"""LMCache's adapters, their context and its functions that make a connector, in their place."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ...errors import InvalidURLError
from ...managed import ManagedConnector
from ...manager import create_connector
from .backend import LocalCPUBackend
from .config import LMCacheEngineConfig
from .memory import TensorMemoryObj
from .metadata import LMCacheMetadata


@dataclass
class ParsedRemoteURL:
    """The parts of a URL under LMCache's names. `password` is a plain string: do not log it."""

    host: str
    port: int
    path: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    query_params: dict[str, list[str]] = field(default_factory=dict)


def parse_remote_url(url: str) -> ParsedRemoteURL:
    """The parts of a URL. Raises `InvalidURLError`, a `ValueError`, where host or port are missing."""
    parsed = urlsplit(url)
    try:
        host, port = parsed.hostname, parsed.port
    except ValueError:
        host, port = parsed.hostname, None
    if host is None or port is None:
        where = f"{parsed.scheme}://{parsed.hostname or ''}..."
        raise InvalidURLError(where, "host or port is missing", "<scheme>://<host>:<port>[/path][?query]")
    query = parse_qs(parsed.query) if parsed.query else {}
    return ParsedRemoteURL(host, port, parsed.path, parsed.username, parsed.password, query)


def extract_plugin_type(plugin_name: str) -> str:
    """The type in a plug-in's name, which is `type` or `type.instance`."""
    return plugin_name.partition(".")[0]


class ConnectorContext:
    """What an adapter makes a connector from. Everything that is not defined here is read from `original`.

    `original` is Connect's own context, or None where a guest made this one.
    """

    def __init__(
        self,
        url: str,
        loop: asyncio.AbstractEventLoop,
        local_cpu_backend: Any,
        config: Any,
        metadata: Any,
        plugin_name: str | None = None,
        original: Any = None,
    ) -> None:
        self.url = url
        self.loop = loop
        self.local_cpu_backend = local_cpu_backend
        self.config = config
        self.metadata = metadata
        self.plugin_name = plugin_name
        self.original = original

    def get_full_chunk_size_bytes(self) -> int:
        """Bytes of a full chunk. Raises `InvalidArgumentError` where the model is not known."""
        return int(self.local_cpu_backend.get_full_chunk_size_bytes())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or (original := vars(self).get("original")) is None:
            raise AttributeError(f"the context has no {name}")
        return getattr(original, name)


class ConnectorAdapter(ABC):
    """Makes connectors for the URLs that begin with its `schema`."""

    def __init__(self, schema: str = "") -> None:
        self.schema = schema

    def can_parse(self, url: str) -> bool:
        """Whether the URL begins with the schema."""
        return self.schema != "" and url.startswith(self.schema)

    @abstractmethod
    def create_connector(self, context: Any) -> Any:
        """A new connector for `context.url`."""


class InnerConnector:
    """A managed connector that a guest wraps. Everything that is not defined here is read from `managed`."""

    def __init__(self, managed: ManagedConnector) -> None:
        self.managed = managed

    async def put(self, key: Any, memory_obj: Any) -> None:
        """As `ManagedConnector.put`."""
        await self.managed.put(key, _chunk_of(memory_obj))

    async def batched_put(self, keys: Any, memory_objs: Any) -> None:
        """As `ManagedConnector.batched_put`."""
        await self.managed.batched_put(keys, [_chunk_of(obj) for obj in memory_objs])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.managed, name)

    def __repr__(self) -> str:
        return f"<InnerConnector of {self.managed!r}>"


def _chunk_of(obj: Any) -> Any:
    return obj.cut_original() if isinstance(obj, TensorMemoryObj) else obj


def _original_of(given: Any) -> Any:
    """What a class in LMCache's place was made from. Anything else is returned as it is."""
    if isinstance(given, LocalCPUBackend | LMCacheEngineConfig | LMCacheMetadata) and given.original is not None:
        return given.original
    return given


class ConnectorManager:
    """LMCache's manager: one URL, one connector."""

    def __init__(
        self,
        url: str,
        loop: asyncio.AbstractEventLoop,
        local_cpu_backend: Any,
        config: Any = None,
        metadata: Any = None,
        plugin_name: str | None = None,
    ) -> None:
        self._arguments = (url, loop, local_cpu_backend, config, metadata, plugin_name)

    def create_connector(self) -> InnerConnector:
        """As `CreateConnector`."""
        return CreateConnector(*self._arguments)


def CreateConnector(
    url: str,
    loop: asyncio.AbstractEventLoop,
    local_cpu_backend: Any,
    config: Any = None,
    metadata: Any = None,
    plugin_name: str | None = None,
) -> InnerConnector:
    """A connector for the URL, with LMCache's signature and types. The caller closes it.

    Raises:
        As `lmcache_connect.create_connector`.
    """
    return InnerConnector(
        create_connector(
            url,
            loop,
            _original_of(local_cpu_backend),
            _original_of(config),
            _original_of(metadata),
            plugin_name,
        )
    )
