"""`HiCacheBackend`: any store of this toolkit as the storage backend of SGLang's HiCache. Written for SGLang 0.5.23."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, PoolName, PoolTransferResult

from ...loop import LoopOwner
from ...observability import RepeatedEvent, event
from ...oversight import clear
from ..jobs import JobPort
from ..namespace import Namespace
from .host_pool import HostPool
from .old_values import value_memory
from .options import Options
from .pool_identity import KV, identity_of, is_writer
from .prefix_hits import PrefixHits, Presence, leading
from .store import Page, PageStore

_PAGE: Final = "page"
"""The record kind of pages whose regions lie in the order of the host pool's addresses."""

_FLAT: Final = "flat"
"""The record kind of what the old interface stores: a page as HiCache flattens it."""

_CLEAR_SECONDS: Final = 60.0

_CLEAR_LIMIT: Final = 1 << 40
"""More pages than any store has: the time alone bounds `clear`."""

P = ParamSpec("P")
T = TypeVar("T")


def _answered(
    otherwise: Callable[..., T],
) -> Callable[[Callable[Concatenate[HiCacheBackend, P], T]], Callable[Concatenate[HiCacheBackend, P], T]]:
    """Has a method return `otherwise(...)` of its arguments, where it would raise into a thread of HiCache's."""

    def decorate(method: Callable[Concatenate[HiCacheBackend, P], T]) -> Callable[Concatenate[HiCacheBackend, P], T]:
        @functools.wraps(method)
        def answered(self: HiCacheBackend, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                self._refused.tell(
                    logging.ERROR, method=method.__name__, kind=type(error).__name__, error=error, answer="failed"
                )
                return otherwise(*args, **kwargs)

        return answered

    return decorate


def _all_false(keys: Sequence[str], *_: Any, **__: Any) -> list[bool]:
    return [False] * len(keys)


def _all_none(keys: Sequence[str], *_: Any, **__: Any) -> list[Any]:
    return [None] * len(keys)


def _false_by_pool(transfers: Sequence[Any], *_: Any, **__: Any) -> dict[Any, list[bool]]:
    return {transfer.name: [False] * len(transfer.keys or ()) for transfer in transfers}


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
        self._config: Final = storage_config
        self._options: Final = Options.of(storage_config.extra_config)
        self._refused: Final = RepeatedEvent("sglang_call_refused")
        identity_of(
            storage_config, None, _PAGE, self._options.identity
        )  # raises for a wrong identity, before the port is made
        self._pools = MappingProxyType[str, HostPool]({})
        self._namespaces = MappingProxyType[tuple[str, str], Namespace]({})
        self._kv_kind: Final = _PAGE if self._options.interface_v1 else _FLAT
        options = self._options
        self._port: Final = JobPort(
            options.url,
            deadline=options.deadline,
            max_waiting_store_bytes=options.max_waiting_store_bytes,
            **options.settings,
        )
        self._store: Final = PageStore(self._port, skip_existing=options.skip_existing)
        event(logging.INFO, "sglang_backend", store=self._port.store, interface_v1=options.interface_v1)

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
        pool = HostPool(theirs, name)
        made = {(_PAGE, name): self._namespace(pool, _PAGE, name)}
        if name == KV:
            made[_FLAT, KV] = self._namespace(pool, _FLAT, KV)
        self._pools = MappingProxyType({**self._pools, name: pool})
        self._namespaces = MappingProxyType({**self._namespaces, **made})

    def _namespace(self, pool: HostPool | None, kind: str, name: str) -> Namespace:
        identity = identity_of(self._config, pool, kind, self._options.identity, name=name)
        return Namespace(identity, strict_identity=self._options.strict_identity)

    def _names(self, kind: str, name: str, keys: Sequence[str]) -> list[str]:
        namespace = self._namespaces.get((kind, name))
        if namespace is None:
            namespace = self._namespace(self._pools.get(name), kind, name)
        return [namespace.key(key) for key in keys]

    def _pages(self, name: str, keys: Sequence[str], host_indices: Any) -> tuple[list[Page], Any]:
        """The pages of a pool, and what must be held until they were moved."""
        pages = self._pools[name].pages(host_indices, len(keys))
        names = self._names(_PAGE, name, keys)
        return [Page(*each) for each in zip(names, pages.buffers, strict=True)], pages.owners

    # ---------------------------------------------------------------------------------- without copies: KV (v1)

    @_answered(_all_false)
    def batch_get_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Loads pages into the pool at `host_indices`. Returns for each whether it is there, verified."""
        if self._is_logical():
            return [True] * len(keys)
        pages, owners = self._pages(KV, keys, host_indices)
        flags = self._store.load(pages)
        del owners
        return flags

    @_answered(_all_false)
    def batch_set_v1(self, keys: list[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Stores pages from the pool at `host_indices`. Returns for each whether the store has it now.

        Where all ranks have the same pages, only the rank that HiCache has chosen stores them.
        """
        if self._is_logical():
            return [True] * len(keys)
        if not is_writer(self._config, self._pools.get(KV), KV):
            return [False] * len(keys)
        pages, owners = self._pages(KV, keys, host_indices)
        flags = self._store.save(pages)
        del owners
        return flags

    @_answered(lambda *_, **__: 0)
    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """Returns how many of the first pages the store has, before one that it has not."""
        if self._is_logical():
            return len(keys)
        return leading(self._store.has(self._names(self._kv_kind, KV, keys)))

    def _is_logical(self) -> bool:
        """Whether the pool `kv` has indices alone. Its pages have no bytes, and the other pools decide."""
        pool = self._pools.get(KV)
        return pool is not None and pool.is_logical

    # -------------------------------------------------------------------------- without copies: all pools (v2)

    @_answered(lambda *_, **__: PoolTransferResult(0, {}, []))
    def batch_exists_v2(
        self, keys: list[str], pool_transfers: Any = None, extra_info: Any = None
    ) -> PoolTransferResult:
        """Returns how many of the first pages can be restored, with what each pool needs of them, by one look-up."""
        transfers = list(pool_transfers or ())
        names = [] if self._is_logical() else self._names(self._kv_kind, KV, keys)
        for transfer in transfers:
            names += self._names(_PAGE, _text(transfer.name), keys)
        found = self._store.has(names)
        kv_flags, at = ([True] * len(keys), 0) if self._is_logical() else (found[: len(keys)], len(keys))
        pools: list[Presence] = []
        for transfer in transfers:
            flags = found[at : (at := at + len(keys))]
            pools.append(Presence(_text(transfer.hit_policy), len(transfer.keys or ()), flags))
        kv_pages = leading(kv_flags)
        hits = PrefixHits.of(kv_pages, pools)
        by_pool: dict[Any, int] = {PoolName.KV: kv_pages} if kv_pages else {}
        by_pool.update((transfers[index].name, pages) for index, pages in hits.by_pool.items())
        return PoolTransferResult(hits.pages, by_pool, hits.restorable)

    @_answered(_false_by_pool)
    def batch_get_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Loads pages of several pools. Returns for each pool and page whether it is there, verified."""
        return self._move(transfers, self._store.load, is_store=False)

    @_answered(_false_by_pool)
    def batch_set_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Stores pages of several pools. Returns for each pool and page whether the store has it now."""
        return self._move(transfers, self._store.save, is_store=True)

    def _move(
        self, transfers: Sequence[Any], move: Callable[[Sequence[Page]], list[bool]], *, is_store: bool
    ) -> dict[Any, list[bool]]:
        pages: list[Page] = []
        owners: list[Any] = []
        for transfer in transfers:
            name, keys = _text(transfer.name), transfer.keys or ()
            try:
                if is_store and not is_writer(self._config, self._pools.get(name), name):
                    pages += [Page("", None)] * len(keys)
                    continue
                added, owner = self._pages(name, keys, transfer.host_indices)
            except Exception as error:  # a pool of SGLang's may raise anything; the others are moved
                self._refused.tell(
                    logging.ERROR,
                    method="batch_set_v2" if is_store else "batch_get_v2",
                    pool=name,
                    kind=type(error).__name__,
                    error=error,
                    answer="failed",
                )
                pages += [Page("", None)] * len(keys)
                continue
            pages += added
            owners.append(owner)
        flags = move(pages)
        del owners
        at = 0
        return {t.name: flags[at : (at := at + len(t.keys or ()))] for t in transfers}

    # ----------------------------------------------------------------------------- the old interface, with copies

    @_answered(lambda *_, **__: None)
    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Loads a flat page into `target_location`. Returns it; None: it was not loaded.

        The target is a tensor, an address in the pool's memory with its size, or None for a new flat page.
        """
        return self.batch_get([key], [target_location], [target_sizes])[0]

    @_answered(_all_none)
    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[Any]:
        """Loads flat pages. Returns for each its target; None: it was not loaded."""
        pool = self._pools.get(KV)
        targets = list(target_locations) if target_locations is not None else [None] * len(keys)
        sizes = list(target_sizes) if target_sizes is not None else [None] * len(keys)
        if pool is not None:
            targets = [pool.theirs.get_dummy_flat_data_page() if each is None else each for each in targets]
        if self._is_logical():
            return targets
        buffers = [value_memory(*each, pool) for each in zip(targets, sizes, strict=True)]
        names = self._names(_FLAT, KV, keys)
        flags = self._store.load([Page(*each) for each in zip(names, buffers, strict=True)])
        return [target if flag else None for target, flag in zip(targets, flags, strict=True)]

    @_answered(lambda *_, **__: False)
    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Stores a flat page. Returns whether the store has it now."""
        targets = None if target_location is None else [target_location]
        return self.batch_set([key], None if value is None else [value], targets, [target_sizes])

    @_answered(lambda *_, **__: False)
    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """Stores flat pages. Returns whether the store has all of them now."""
        pool = self._pools.get(KV)
        if self._is_logical():
            return True
        if not is_writer(self._config, pool, KV):
            return False
        given = values if values is not None else target_locations
        held = [each.contiguous() if hasattr(each, "contiguous") else each for each in given]
        sizes = list(target_sizes) if target_sizes is not None else [None] * len(keys)
        buffers = [value_memory(*each, pool) for each in zip(held, sizes, strict=True)]
        names = self._names(_FLAT, KV, keys)
        return all(self._store.save([Page(*each) for each in zip(names, buffers, strict=True)]))

    @_answered(lambda *_, **__: False)
    def exists(self, key: str) -> bool:
        """Returns whether the store has the page, through either interface."""
        return self._is_logical() or any(
            self._store.has([*self._names(_PAGE, KV, [key]), *self._names(_FLAT, KV, [key])])
        )

    # --------------------------------------------------------------------------------------------- housekeeping

    @_answered(lambda *_, **__: False)
    def clear(self) -> bool:
        """Removes every page that this backend could load, within a minute. Returns whether all are gone.

        Pages of other models, ranks, layouts and engines stay. What is stored meanwhile may stay, too.
        """
        is_complete = True
        loop = LoopOwner.start("lmcache-connect clear")
        try:
            ends = time.monotonic() + _CLEAR_SECONDS
            for prefix in sorted({each.prefix for each in self._namespaces.values()}):
                left = max(ends - time.monotonic(), 0.001)
                done = loop.run_sync("clear", left, clear, self._port.connector, prefix, limit=_CLEAR_LIMIT)
                is_complete = is_complete and done.is_complete and not done.failed
                event(logging.INFO, "sglang_cleared", prefix=prefix, removed=done.removed, failed=done.failed)
        finally:
            loop.close_sync()
        return is_complete

    @_answered(lambda *_, **__: None)
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
        """What an operator asks for: the port's status, and the namespaces with what they cannot tell apart."""
        namespaces = {".".join(names): each.status() for names, each in self._namespaces.items()}
        return {"port": self._port.status(), "namespaces": namespaces}

    @_answered(lambda *_, **__: None)
    def close(self) -> None:
        """Ends the calls under way, and closes the connector with the last backend on it. Idempotent."""
        self._port.close()


def _text(name: Any) -> str:
    """The text of a `PoolName` or a `PoolHitPolicy`, whose `str` is not the same in each of their releases."""
    return str(getattr(name, "value", name))
