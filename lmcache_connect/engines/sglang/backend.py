"""`HiCacheBackend`: any store of this toolkit as the storage backend of SGLang's HiCache. Written for SGLang 0.5.23."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Final

from ...errors import MissingEngineError
from ...loop import LoopOwner
from ...observability import RepeatedEvent, event
from ...oversight import clear
from ..jobs import JobPort
from .answered import answered
from .host_pool import HostPool
from .old_values import value_memory
from .options import Options
from .page_store import PageStore
from .pages import NOWHERE, Page
from .pool_identity import KV, identity_of
from .prefix_hits import PrefixHits, Presence, leading
from .registered_pool import RegisteredPool

try:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, PoolName, PoolTransferResult
except ImportError as missing:
    raise MissingEngineError("HiCacheBackend", "SGLang", missing.name or "sglang") from missing

_CLEAR_SECONDS: Final = 60.0

_CLEAR_LIMIT: Final = 1 << 40
"""More pages than any store has: the time alone bounds `clear`."""


def _all_false(keys: Sequence[str], *_: Any, **__: Any) -> list[bool]:
    return [False] * len(keys)


def _all_none(keys: Sequence[str], *_: Any, **__: Any) -> list[Any]:
    return [None] * len(keys)


def _false_by_pool(transfers: Sequence[Any], *_: Any, **__: Any) -> dict[Any, list[bool]]:
    return {transfer.name: [False] * len(transfer.keys or ()) for transfer in transfers}


def _false(*_: Any, **__: Any) -> bool:
    return False


def _none(*_: Any, **__: Any) -> Any:
    return None


class HiCacheBackend(HiCacheStorage):  # type: ignore[misc]
    """Stores HiCache's pages, and loads them straight into the memory of its host pools.

    No method but the constructor and the two that register pools raises: HiCache's threads would end. What goes wrong
    is an answer of False, None or 0, and a line in the log at a bounded rate. Each call has ended by the deadline, and
    nothing touches a page's memory afterwards. A page that was not loaded may hold part of what was received.

    Thread-safe: HiCache looks up, loads and stores in threads of their own.
    """

    def __init__(self, storage_config: Any, kwargs: Any = None) -> None:
        """Checks the configuration, and connects to nothing yet. `kwargs` is what SGLang's factory adds: nothing.

        Raises:
            InvalidConfigError, InvalidArgumentError: the extra config has a wrong value or an unknown name.
            InvalidURLError, AdapterLoadError, PluginError: no connector can be made for the URL.
        """
        self.refused: Final = RepeatedEvent("sglang_call_refused")
        """Tells calls that were not made, because of their arguments or because the backend is closed."""
        self._config: Final = storage_config
        self._options: Final = Options.of(storage_config.extra_config)
        identity_of(storage_config, None, "page", self._options.identity)  # a wrong identity is told before a wrong URL
        self._pools = MappingProxyType[str, RegisteredPool]({})
        self._port: Final = JobPort(
            self._options.url,
            deadline=self._options.deadline,
            max_waiting_store_bytes=self._options.max_waiting_store_bytes,
            **self._options.settings,
        )
        self._store: Final = PageStore(self._port, skip_existing=self._options.skip_existing)
        event(logging.INFO, "sglang_backend", store=self._port.store, interface_v1=self._options.interface_v1)

    # ------------------------------------------------------------------------------------------------------- pools

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Takes the pool of keys and values. HiCache calls it once, before its threads start.

        Raises:
            InvalidConfigError: `identity` contradicts the pool, or `strict_identity` finds a field that is not known.
        """
        super().register_mem_pool_host(mem_pool_host)
        self._register(mem_pool_host, KV)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Takes a further pool of a hybrid model. Raises what `register_mem_pool_host` raises."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        self._register(host_pool, _text(host_pool_name))

    def _register(self, theirs: Any, name: str) -> None:
        added = RegisteredPool.of(self._config, self._options, HostPool(theirs, name), name)
        if hasattr(theirs, "destroy"):
            self._port.guard(theirs, "destroy")
        self._pools = MappingProxyType({**self._pools, name: added})

    def _pool(self, name: str) -> RegisteredPool:
        found = self._pools.get(name)
        return RegisteredPool.of(self._config, self._options, None, name) if found is None else found

    def _kv_names(self, pool: RegisteredPool, keys: Sequence[str]) -> list[str]:
        """What HiCache's loads of these keys will ask for, by the interface that it uses."""
        namespace = pool.pages if self._options.interface_v1 else pool.flat
        return [namespace.key(key) for key in keys]

    # ---------------------------------------------------------------------------------- without copies: KV (v1)

    @answered(_all_false)
    def batch_get_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Loads pages into the pool at `host_indices`. Returns for each whether it is there, verified."""
        kv = self._pool(KV)
        return [True] * len(keys) if kv.is_logical else self._store.load(kv.at(keys, host_indices))

    @answered(_all_false)
    def batch_set_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Stores pages from the pool at `host_indices`. Returns for each whether the store has it now.

        Where all ranks have the same pages, only the rank that HiCache has chosen stores them.
        """
        kv = self._pool(KV)
        if kv.is_logical:
            return [True] * len(keys)
        return self._store.save(kv.at(keys, host_indices)) if kv.is_writer else [False] * len(keys)

    @answered(lambda *_, **__: 0)
    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """Returns how many of the first pages the store has, before one that it has not."""
        kv = self._pool(KV)
        return len(keys) if kv.is_logical else leading(self._store.has(self._kv_names(kv, keys)))

    # -------------------------------------------------------------------------- without copies: all pools (v2)

    @answered(lambda *_, **__: PoolTransferResult(0, {}, []))
    def batch_exists_v2(
        self, keys: list[str], pool_transfers: Any = None, extra_info: Any = None
    ) -> PoolTransferResult:
        """Returns how many of the first pages can be restored, with what each pool needs of them, by one look-up."""
        transfers = list(pool_transfers or ())
        kv = self._pool(KV)
        names = [] if kv.is_logical else self._kv_names(kv, keys)
        at = len(names)
        for transfer in transfers:
            pages = self._pool(_text(transfer.name)).pages
            names += [pages.key(key) for key in keys]
        found = self._store.has(names)
        kv_pages = len(keys) if kv.is_logical else leading(found[:at])
        pools: list[Presence] = []
        for transfer in transfers:
            pools.append(Presence(_text(transfer.hit_policy), len(transfer.keys or ()), found[at : at + len(keys)]))
            at += len(keys)
        hits = PrefixHits.of(kv_pages, pools)
        by_pool: dict[Any, int] = {PoolName.KV: kv_pages} if kv_pages else {}
        by_pool.update((transfers[index].name, pages) for index, pages in hits.by_pool.items())
        return PoolTransferResult(hits.pages, by_pool, hits.restorable)

    @answered(_false_by_pool)
    def batch_get_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Loads pages of several pools. Returns for each pool and page whether it is there, verified."""
        return self._move(transfers, self._store.load, is_store=False)

    @answered(_false_by_pool)
    def batch_set_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Stores pages of several pools. Returns for each pool and page whether the store has it now."""
        return self._move(transfers, self._store.save, is_store=True)

    def _move(
        self, transfers: Sequence[Any], move: Callable[[Sequence[Page]], list[bool]], *, is_store: bool
    ) -> dict[Any, list[bool]]:
        pages: list[Page] = []
        for transfer in transfers:
            pages += self._pages_of(transfer, is_store=is_store)
        flags = move(pages)
        answers: dict[Any, list[bool]] = {}
        at = 0
        for transfer in transfers:
            count = len(transfer.keys or ())
            answers[transfer.name] = flags[at : at + count]
            at += count
        return answers

    @answered(lambda transfer, **_: [NOWHERE] * len(transfer.keys or ()))
    def _pages_of(self, transfer: Any, *, is_store: bool) -> list[Page]:
        """The pages of one pool. Where they cannot be told, the pages of the other pools are still moved."""
        pool, keys = self._pool(_text(transfer.name)), transfer.keys or ()
        return [NOWHERE] * len(keys) if is_store and not pool.is_writer else pool.at(keys, transfer.host_indices)

    # ----------------------------------------------------------------------------- the old interface, with copies

    @answered(_none)
    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Loads a flat page into `target_location`. Returns it; None: it was not loaded.

        The target is a tensor, an address in the pool's memory with its size, or None for a new flat page.
        """
        return self.batch_get([key], [target_location], [target_sizes])[0]

    @answered(_all_none)
    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[Any]:
        """Loads flat pages. Returns for each its target; None: it was not loaded."""
        kv = self._pool(KV)
        targets = [None] * len(keys) if target_locations is None else list(target_locations)
        if kv.pool is not None:
            targets = [kv.pool.theirs.get_dummy_flat_data_page() if each is None else each for each in targets]
        if kv.is_logical:
            return targets
        flags = self._store.load(_flat_pages(kv, keys, targets, target_sizes))
        return [target if flag else None for target, flag in zip(targets, flags, strict=True)]

    @answered(_false)
    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Stores a flat page: a tensor, or an address in the pool's memory. Returns whether the store has it now."""
        return self.batch_set([key], [target_location if value is None else value], None, [target_sizes])

    @answered(_false)
    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Stores flat pages. Returns whether the store has all of them now."""
        kv = self._pool(KV)
        if kv.is_logical or not kv.is_writer:
            return kv.is_logical
        given = target_locations if values is None else values
        whole = [each.contiguous() if hasattr(each, "contiguous") else each for each in given]
        return all(self._store.save(_flat_pages(kv, keys, whole, target_sizes)))

    @answered(_false)
    def exists(self, key: str) -> bool:
        """Returns whether the store has the page, through either interface."""
        kv = self._pool(KV)
        return kv.is_logical or any(self._store.has([kv.pages.key(key), kv.flat.key(key)]))

    # --------------------------------------------------------------------------------------------- housekeeping

    @answered(_false)
    def clear(self) -> bool:
        """Removes every page that this backend could load, within a minute. Returns whether all are gone.

        Pages of other models, ranks, layouts and engines stay. What is stored meanwhile may stay, too.
        """
        is_complete = True
        prefixes = sorted({each.prefix for pool in self._pools.values() for each in (pool.pages, pool.flat)})
        loop = LoopOwner.start("lmcache-connect clear")
        try:
            ends = time.monotonic() + _CLEAR_SECONDS
            for prefix in prefixes:
                left = max(ends - time.monotonic(), 0.001)
                done = loop.run_sync("clear", left, clear, self._port.connector, prefix, limit=_CLEAR_LIMIT)
                is_complete = is_complete and done.is_complete and not done.failed
                event(logging.INFO, "sglang_cleared", prefix=prefix, removed=done.removed, failed=done.failed)
        finally:
            loop.close_sync()
        return is_complete

    @answered(_none)
    def get_stats(self) -> Any:
        """Returns SGLang's `StorageMetrics`: pages and GiB/s of the batches since the last call. It does not wait.

        None where SGLang has its storage metrics off.
        """
        if not self._config.enable_storage_metrics:
            return None
        from sglang.srt.observability.metrics_collector import StorageMetrics

        metrics = StorageMetrics()
        for pages, rate in self._store.loaded.take():
            metrics.prefetch_pgs.append(pages)
            metrics.prefetch_bandwidth.append(rate)
        for pages, rate in self._store.stored.take():
            metrics.backup_pgs.append(pages)
            metrics.backup_bandwidth.append(rate)
        return metrics

    def status(self) -> dict[str, Any]:
        """What an operator asks for: the port's status, and the namespaces with what they cannot tell apart.

        Raises:
            ForkedProcessError: in a fork.
        """
        return {
            "port": self._port.status(),
            "pools": {
                name: {"pages": each.pages.status(), "flat": each.flat.status()} for name, each in self._pools.items()
            },
        }

    @answered(_none)
    def close(self) -> None:
        """Ends the calls under way, and closes the connector with the last backend on it. Idempotent."""
        self._port.close()


def _flat_pages(kv: RegisteredPool, keys: Sequence[str], values: Sequence[Any], sizes: Any) -> list[Page]:
    """Pages of the old interface. Raises what `value_memory` raises."""
    each_size = [None] * len(keys) if sizes is None else sizes
    return [
        Page(kv.flat.key(key), value_memory(value, size, kv.pool), (value, kv.pool))
        for key, value, size in zip(keys, values, each_size, strict=True)
    ]


def _text(name: Any) -> str:
    """The text of a `PoolName` or a `PoolHitPolicy`, whose `str` is not the same in each of SGLang's releases."""
    return str(getattr(name, "value", name))
