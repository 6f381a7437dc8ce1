"""SGLang's interfaces that the backend is written against, restated in a few lines."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import Any


class HiCacheStorage(ABC):
    """The base class of HiCache's storage backends."""

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        self.mem_pool_host = mem_pool_host

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        if not hasattr(self, "registered_pools"):
            self.registered_pools: dict[Any, Any] = {}
        self.registered_pools[host_pool_name] = host_pool

    def on_host_pools_registered(self) -> None:  # noqa: B027 - as in SGLang
        pass

    @abstractmethod
    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any: ...

    @abstractmethod
    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> Any: ...

    @abstractmethod
    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool: ...

    @abstractmethod
    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool: ...

    @abstractmethod
    def exists(self, key: str) -> bool: ...


@dataclass
class HiCacheStorageConfig:
    """What HiCache tells a backend of the model and of the rank."""

    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    attn_cp_rank: int
    attn_cp_size: int
    is_mla_model: bool
    enable_storage_metrics: bool
    is_page_first_layout: bool
    model_name: str | None
    extra_config: dict[str, Any] | None = None
    dcp_size: int = 1
    dcp_rank: int = 0


class PoolName(str, Enum):  # noqa: UP042 - as in SGLang
    """The names of host pools. As in SGLang, a member is equal to its text, but has another hash."""

    KV = "kv"
    MAMBA = "mamba"
    SWA = "swa"
    INDEXER = "indexer"
    DRAFT = "draft"

    def __str__(self) -> str:
        return self.value


class PoolHitPolicy(str, Enum):  # noqa: UP042 - as in SGLang
    """Which pages of a pool a prefix needs."""

    ALL_PAGES = "all_pages"
    TRAILING_PAGES = "trailing_pages"
    BLOCK_GROUPS = "block_groups"


@dataclass
class PoolTransfer:
    """Pages of one pool that are to be moved."""

    name: PoolName
    host_indices: Any = None
    device_indices: Any = None
    keys: list[str] | None = None
    hit_policy: PoolHitPolicy = PoolHitPolicy.ALL_PAGES


@dataclass
class PoolTransferResult:
    """How many pages can be restored."""

    kv_hit_pages: int
    extra_pool_hit_pages: dict[str, int]
    restorable_prefix_pages: list[int] | None = None


@dataclass
class StorageMetrics:
    """What SGLang's metrics take."""

    prefetch_pgs: list[int] = field(default_factory=list)
    backup_pgs: list[int] = field(default_factory=list)
    prefetch_bandwidth: list[float] = field(default_factory=list)
    backup_bandwidth: list[float] = field(default_factory=list)


_STORAGE = "sglang.srt.mem_cache.hicache_storage"
_METRICS = "sglang.srt.observability.metrics_collector"
BACKEND = "lmcache_connect.engines.sglang.backend"


@contextmanager
def restated_sglang() -> Iterator[Any]:
    """Puts these interfaces in SGLang's place, and gives the class `HiCacheBackend` that was made against them."""
    with replaced_modules("sglang", BACKEND):
        for name in ("sglang", "sglang.srt", "sglang.srt.mem_cache", "sglang.srt.observability"):
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = []
        storage = sys.modules[_STORAGE] = ModuleType(_STORAGE)
        for each in (HiCacheStorage, HiCacheStorageConfig, PoolName, PoolHitPolicy, PoolTransfer, PoolTransferResult):
            setattr(storage, each.__name__, each)
        metrics: Any = ModuleType(_METRICS)
        metrics.StorageMetrics = StorageMetrics
        sys.modules[_METRICS] = metrics
        from lmcache_connect.engines import sglang

        yield sglang.HiCacheBackend


@contextmanager
def replaced_modules(*roots: str) -> Iterator[None]:
    """Takes modules and what lies below them out of `sys.modules`, and puts them back afterwards."""

    def below() -> list[str]:
        return [name for name in sys.modules if any(name == root or name.startswith(f"{root}.") for root in roots)]

    kept = {name: sys.modules.pop(name) for name in below()}
    try:
        yield
    finally:
        for name in below():
            del sys.modules[name]
        sys.modules.update(kept)
