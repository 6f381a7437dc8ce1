"""LMCache's keys for those of Connect."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from lmcache import utils as lmcache_utils

from ...errors import InvalidKeyError
from ...keys import Key, LayerCacheEngineKey, parse_key


class NamedLMCacheKey(lmcache_utils.CacheEngineKey):  # type: ignore[misc]
    """A key of LMCache's for a string that is not in LMCache's format. `to_string()` returns the string."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        # A guest may build a name of its own from a key's parts: the hash keeps those names apart.
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
    """LMCache's key for one of Connect, or for a string. A key of LMCache's is returned as it is."""
    if isinstance(key, lmcache_utils.CacheEngineKey):
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
        return lmcache_utils.LayerCacheEngineKey(*arguments, layer_id=key.layer_id)
    return lmcache_utils.CacheEngineKey(*arguments)
