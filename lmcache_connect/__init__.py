"""LMCache Connect: KV caches of LLMs between Python and remote stores. Any store, one `await`.

These are the names that an application and the author of a connector need. Further exceptions are in
`lmcache_connect.errors`, and what only some need is in the package that it belongs to.
"""

from __future__ import annotations

from ._version import __version__
from .config import ConnectorConfig
from .contract import (
    ConnectorAdapter,
    ConnectorContext,
    ConnectorOptions,
    RemoteConnector,
    WrappingAdapter,
    WrappingConnector,
    hit_prefix,
    prefix_length,
)
from .dtypes import DType
from .errors import (
    ArenaExhaustedError,
    AuthenticationError,
    ChunkMissingError,
    ConnectorClosedError,
    CorruptRecordError,
    InvalidURLError,
    LMCacheConnectError,
    OperationTimeoutError,
    StoreError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from .keys import CacheEngineKey, Key, LayerCacheEngineKey, key_string
from .managed import ManagedConnector, Progress
from .manager import ConnectorManager, CreateConnector, create_connector, register_adapter
from .memory import ChunkMemory, LocalCPUBackend, MemoryObj, Regions, chunk_of, memory_at, regions_of
from .metadata import CacheMetadata, ChunkMetadata, MemoryFormat
from .url import RemoteURL

__all__ = [
    "ArenaExhaustedError",
    "AuthenticationError",
    "CacheEngineKey",
    "CacheMetadata",
    "ChunkMemory",
    "ChunkMetadata",
    "ChunkMissingError",
    "ConnectorAdapter",
    "ConnectorClosedError",
    "ConnectorConfig",
    "ConnectorContext",
    "ConnectorManager",
    "ConnectorOptions",
    "CorruptRecordError",
    "CreateConnector",
    "DType",
    "InvalidURLError",
    "Key",
    "LMCacheConnectError",
    "LayerCacheEngineKey",
    "LocalCPUBackend",
    "ManagedConnector",
    "MemoryFormat",
    "MemoryObj",
    "OperationTimeoutError",
    "Progress",
    "Regions",
    "RemoteConnector",
    "RemoteURL",
    "StoreError",
    "StoreUnavailableError",
    "UnsupportedOperationError",
    "WrappingAdapter",
    "WrappingConnector",
    "__version__",
    "chunk_of",
    "create_connector",
    "hit_prefix",
    "key_string",
    "memory_at",
    "prefix_length",
    "regions_of",
    "register_adapter",
]
