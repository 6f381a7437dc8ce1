"""LMCache's own memory objects as views of this toolkit's memory, and keys in both directions. Needs LMCache."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from ...errors import InvalidKeyError, MissingExtraError, ReleasedObjectError
from ...keys import CacheEngineKey, Key, LayerCacheEngineKey, parse_key
from ...memory import MemoryObj
from ...metadata import MemoryFormat
from ...observability import event
from ..shapes import narrowed

try:
    import torch
except ImportError as missing:
    raise MissingExtraError("speaking to LMCache's own classes", "torch", "torch") from missing

from lmcache import utils as theirs
from lmcache.v1 import memory_management


class NamedLMCacheKey(theirs.CacheEngineKey):  # type: ignore[misc]
    """A name that is none of LMCache's, as a key of LMCache's: `to_string()` is the name itself."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        # A hash of the name, for a connector that makes a name of its own out of a key's parts.
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest())
        super().__init__("lmcache_connect", 1, 0, digest, torch.uint8, None)
        self.name = name

    def to_string(self) -> str:
        """The name."""
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedLMCacheKey) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


def lmcache_key(key: Key | Any) -> Any:
    """LMCache's key for one of this toolkit's, or for a string; one of LMCache's own as it is."""
    if isinstance(key, theirs.CacheEngineKey):
        return key
    if isinstance(key, str):
        try:
            parsed = parse_key(key)
        except InvalidKeyError:
            return NamedLMCacheKey(key)
        if parsed.to_string() != key:
            return NamedLMCacheKey(key)
        key = parsed
    arguments = (
        key.model_name,
        key.world_size,
        key.worker_id,
        key.chunk_hash,
        getattr(torch, key.dtype.torch_name),
        dict(key.request_configs) if key.request_configs else None,
    )
    if isinstance(key, LayerCacheEngineKey):
        return theirs.LayerCacheEngineKey(*arguments, layer_id=key.layer_id)
    return theirs.CacheEngineKey(*arguments)


def toolkit_key(key: Any) -> CacheEngineKey | LayerCacheEngineKey | str:
    """This toolkit's key for one of LMCache's; `to_string()` of both is the same.

    Raises:
        InvalidKeyError: its parts cannot be told from each other in a string, or name no chunk here.
    """
    if isinstance(key, NamedLMCacheKey):
        return key.name
    arguments = (key.model_name, key.world_size, key.worker_id, key.chunk_hash, key.dtype, key.request_configs)
    if isinstance(key, theirs.LayerCacheEngineKey):
        return LayerCacheEngineKey(*arguments, layer_id=key.layer_id)
    return CacheEngineKey(*arguments)


class _View:
    """What both kinds of views have. Counts references of its own; the last one gives the original back.

    `original` is None once that has happened. A view that is lent has nothing to give back.
    """

    original: MemoryObj | None
    is_lent: bool
    _memory: memoryview | None

    def _share(self, original: MemoryObj, is_lent: bool) -> None:
        self.original = original
        self.is_lent = is_lent
        self._memory = original.byte_array
        self._references = 1

    def end(self) -> None:
        """Lets go of the memory, and of the original's reference where the view held one."""
        original, self.original, self._memory = self.original, None, None
        self.raw_data: Any = None
        if original is not None and not self.is_lent and original.is_valid():
            original.ref_count_down()

    def settled(self) -> Any:
        """The original, cut to what the connector made of it. Raises `InvalidShapeError` where that is no chunk."""
        original = self._held()
        metadata = narrowed(original.metadata, self.meta.shape, self.get_size())  # type: ignore[attr-defined]
        if metadata != original.metadata:
            original.shrink(metadata)
        return original

    def claimed(self) -> Any:
        """The original with a reference for the caller, for the one reference that this view gives up.

        Raises:
            ReleasedObjectError: the view was released.
            InvalidShapeError: the connector cut it to something that is no chunk.
        """
        original = self._held()
        original.ref_count_up()
        try:
            self.settled()
        except BaseException:
            original.ref_count_down()
            raise
        self.ref_count_down()
        return original

    def _held(self) -> MemoryObj:
        if self.original is None:
            raise ReleasedObjectError("an LMCache memory object")
        return self.original

    def is_valid(self) -> bool:
        """Whether a reference is held."""
        return self.original is not None

    def invalidate(self) -> None:
        """As the last reference given back."""
        self.end()

    def ref_count_up(self) -> None:
        """Takes one more reference of the view."""
        self._held()
        self._references += 1
        self.meta.ref_count = self._references  # type: ignore[attr-defined]

    def ref_count_down(self) -> None:
        """Gives one back; one too many is told of and does nothing, as in LMCache."""
        if self.original is None:
            event(logging.WARNING, "released_twice", object=type(self).__name__)
            return
        self._references -= 1
        self.meta.ref_count = self._references  # type: ignore[attr-defined]
        if not self._references:
            self.end()

    def get_ref_count(self) -> int:
        """References of the view."""
        return self._references

    def pin(self) -> bool:
        """Pins the original."""
        return self._held().pin()

    def unpin(self) -> bool:
        """Unpins the original."""
        return self._held().unpin()

    @property
    def is_pinned(self) -> bool:
        """Whether the original is pinned."""
        return self.original is not None and self.original.is_pinned

    @property
    def can_evict(self) -> bool:
        """Never: no cache of LMCache's holds it."""
        return False

    def get_num_tokens(self) -> int:
        """Tokens in the chunk."""
        return self._held().get_num_tokens()

    def get_physical_size(self) -> int:
        """The bytes of arena that the chunk takes."""
        return self._held().get_physical_size()

    def parent(self) -> None:
        """No allocator of LMCache's."""

    def __del__(self) -> None:
        if getattr(self, "original", None) is not None:
            if not self.is_lent:
                event(logging.WARNING, "forgotten_object", bytes=len(self._memory or b""))
            self.end()


class TensorView(_View, memory_management.TensorMemoryObj):  # type: ignore[misc]
    """LMCache's object for a chunk of tensors."""

    def __init__(self, original: MemoryObj, *, is_lent: bool) -> None:
        metadata = original.metadata
        shapes = [torch.Size(shape) for shape in metadata.shapes]
        dtypes = [getattr(torch, dtype.torch_name) for dtype in metadata.dtypes]
        self._share(original, is_lent)
        described = memory_management.MemoryObjMetadata(
            shape=shapes[0],
            dtype=dtypes[0],
            address=original.data_ptr,
            phy_size=original.get_physical_size(),
            ref_count=1,
            fmt=memory_management.MemoryFormat(metadata.fmt.value),
            shapes=shapes,
            dtypes=dtypes,
        )
        raw = torch.frombuffer(self._memory, dtype=torch.uint8)
        memory_management.TensorMemoryObj.__init__(self, raw, described, None)

    @property
    def byte_array(self) -> memoryview:
        """The chunk's bytes; the memory is not used for anything else while the view is there."""
        if self._memory is None:
            raise ReleasedObjectError("byte_array")
        return self._memory[: self.get_size()]

    @property
    def tensor(self) -> Any:
        """The first group as a tensor, or None once the object was released."""
        if self._memory is None:
            return None
        return super().tensor if len(self.meta.shapes) == 1 else super().get_tensor(0)

    def get_tensor(self, index: int) -> Any:
        """One group as a tensor, or None once the object was released."""
        return None if self._memory is None else super().get_tensor(index)

    @property
    def raw_tensor(self) -> Any:
        """All bytes as a flat tensor, or None once the object was released."""
        return self.raw_data


class BufferView(_View, memory_management.BytesBufferMemoryObj):  # type: ignore[misc]
    """LMCache's object for a chunk that is only bytes."""

    def __init__(self, original: MemoryObj, *, is_lent: bool) -> None:
        self._share(original, is_lent)
        shape = torch.Size((original.get_size(), 0, 0, 0))
        described = memory_management.MemoryObjMetadata(
            shape=shape,
            dtype=None,
            address=original.data_ptr,
            phy_size=original.get_physical_size(),
            ref_count=1,
            fmt=memory_management.MemoryFormat.BINARY_BUFFER,
            shapes=[shape],
            dtypes=[None],
        )
        memory_management.BytesBufferMemoryObj.__init__(self, self._memory, described)

    @property
    def byte_array(self) -> memoryview:
        """The chunk's bytes; the memory is not used for anything else while the view is there."""
        if self._memory is None:
            raise ReleasedObjectError("byte_array")
        return self._memory[:]

    def get_size(self) -> int:
        """Bytes of the chunk."""
        return len(self._memory or b"")


def view_of(original: MemoryObj, *, is_lent: bool) -> TensorView | BufferView:
    """LMCache's object for the memory of one of this toolkit's, without a copy.

    One that is not lent takes over the caller's reference.
    """
    metadata = original.metadata
    is_buffer = (
        metadata.fmt is MemoryFormat.BINARY_BUFFER
        and [len(shape) for shape in metadata.shapes] == [1]
        and metadata.dtypes[0].name == "uint8"
    )
    return (BufferView if is_buffer else TensorView)(original, is_lent=is_lent)
