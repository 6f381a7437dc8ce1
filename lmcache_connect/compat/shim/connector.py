"""LMCache's base class of connectors, in its place. Its defaults are LMCache's, for subclasses that rely on them."""

from __future__ import annotations

import asyncio
import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from ...contract import prefix_length
from ...errors import InvalidArgumentError
from ...metadata import MemoryFormat
from ..shapes import narrowed
from .functions import get_size_bytes
from .memory import TensorMemoryObj
from .protocol import get_remote_metadata_bytes, init_remote_metadata_info

CallableT = TypeVar("CallableT", bound=Callable[..., Any])

_OF_THE_MODEL = (
    "meta_shapes",
    "meta_dtypes",
    "meta_fmt",
    "full_chunk_size_bytes",
    "single_token_size",
    "remote_metadata_bytes",
)


def NotAudit(func: CallableT) -> CallableT:
    """Marks a method that LMCache's audit connector does not log."""
    func._not_audit = True  # type: ignore[attr-defined]
    return func


class RemoteConnector(ABC):
    """What a connector for LMCache derives from. A subclass need not call `super().__init__()`.

    It is not a `lmcache_connect.RemoteConnector`. A manager wraps it in one.
    """

    save_chunk_meta: bool = True

    def __init__(self, config: Any, metadata: Any) -> None:
        extra = getattr(config, "extra_config", None)
        self.save_chunk_meta = (
            not extra or extra.get("save_chunk_meta", True) or bool(getattr(config, "use_layerwise", False))
        )
        if metadata is None:
            return
        self.meta_shapes = metadata.get_shapes()
        self.meta_dtypes = metadata.get_dtypes()
        self.meta_fmt = MemoryFormat.KV_MLA_FMT if metadata.use_mla else MemoryFormat.KV_2LTD
        self.full_chunk_size_bytes = get_size_bytes(self.meta_shapes, self.meta_dtypes)
        self.single_token_size = self.full_chunk_size_bytes // metadata.chunk_size
        init_remote_metadata_info(metadata.get_num_groups())
        self.remote_metadata_bytes = get_remote_metadata_bytes()

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_MODEL:
            raise InvalidArgumentError(
                "metadata",
                f"{type(self).__qualname__} asks for {name}, which it knows where its manager was given "
                "metadata=CacheMetadata(...) and it calls super().__init__(config, metadata)",
            )
        raise AttributeError(f"{type(self).__qualname__!r} object has no attribute {name!r}")

    @abstractmethod
    async def exists(self, key: Any) -> bool:
        """Whether the store holds the key."""

    def exists_sync(self, key: Any) -> bool:
        """Whether the store holds the key. A manager never calls this."""
        raise NotImplementedError

    @abstractmethod
    async def get(self, key: Any) -> Any:
        """The chunk, or None."""

    @abstractmethod
    async def put(self, key: Any, memory_obj: Any) -> Any:
        """Stores the chunk."""

    @abstractmethod
    async def list(self) -> Any:
        """The keys."""

    @abstractmethod
    async def close(self) -> Any:
        """Closes the connections to the store."""

    @NotAudit  # noqa: B027 - an optional hook
    def post_init(self) -> None:
        """Called once the connector was made."""

    @NotAudit
    def reshape_partial_chunk(self, memory_obj: Any, bytes_read: int) -> Any:
        """Cuts a full-sized object to its first `bytes_read` bytes, and returns it.

        Raises:
            InvalidShapeError: `bytes_read` is not a whole number of tokens, from 1 to all of the chunk.
        """
        if isinstance(memory_obj, TensorMemoryObj):
            memory_obj.shrink(narrowed(memory_obj._metadata, memory_obj.meta.shape, bytes_read))
            return memory_obj
        raise TypeError(f"a {type(memory_obj).__qualname__}; expected what local_cpu_backend.allocate() gave")

    def support_ping(self) -> bool:
        """Whether `ping` asks the store."""
        return False

    async def ping(self) -> int:
        """0, or an error code."""
        raise NotImplementedError

    def support_batched_get(self) -> bool:
        """Whether `batched_get` may be called."""
        return False

    async def batched_get(self, keys: Any) -> Any:
        """One chunk or None per key."""
        raise NotImplementedError

    def support_batched_put(self) -> bool:
        """Whether `batched_put` may be called."""
        return False

    async def batched_put(self, keys: Any, memory_objs: Any) -> Any:
        """Stores every pair."""
        raise NotImplementedError

    def support_batched_async_contains(self) -> bool:
        """Whether `batched_async_contains` may be called."""
        return True

    async def batched_async_contains(self, lookup_id: str, keys: Any, pin: bool = False) -> int:
        """How many keys are in the store before the first miss."""
        found = await asyncio.gather(*(self.exists(key) for key in keys))
        return found.index(False) if False in found else len(found)

    def support_batched_get_non_blocking(self) -> bool:
        """Whether `batched_get_non_blocking` may be called."""
        return True

    async def batched_get_non_blocking(self, lookup_id: str, keys: Any) -> Any:
        """The chunks before the first miss. Chunks behind it are released."""
        found: builtins.list[Any] = await asyncio.gather(*(self.get(key) for key in keys), return_exceptions=True)
        is_hit = [obj is not None and not isinstance(obj, BaseException) for obj in found]
        length = prefix_length(is_hit)
        for obj, hit in zip(found[length:], is_hit[length:], strict=True):
            if hit:
                obj.ref_count_down()
        return found[:length]

    def support_batched_contains(self) -> bool:
        """Whether `batched_contains` may be called."""
        return False

    def batched_contains(self, keys: Any) -> int:
        """How many keys are in the store before the first miss."""
        raise NotImplementedError

    def remove_sync(self, key: Any) -> bool:
        """Removes the key. Returns whether it was there."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
