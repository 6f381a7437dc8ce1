"""`SyncConnector`: a connector's operations for threads without an event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..contract import CallerMemory, Descriptions, KeyFacts, RemoteConnector, prefix_length
from ..errors import (
    ChunkMissingError,
    ConnectorClosedError,
    ForkedProcessError,
    LoopNotRunningError,
    SyncCallOnLoopError,
)
from ..keys import Key, check_batch, key_string
from ..loop import LoopOwner
from ..memory import ChunkMemory, MemoryObj, chunk_of, release_all
from ..metadata import ChunkMetadata
from .own_thread import NOT_HERE, OwnThread
from .progress import OnProgress, Tally
from .tensors import array_of, tensor_of
from .windowed_gets import KeyT, WindowedGets
from .windowed_puts import Pair, windows_of

if TYPE_CHECKING:
    import numpy
    import torch

T = TypeVar("T")

_NAMES_AT_ONCE: Final = 1000
"""Names of a scan that one call brings from the event loop."""


class SyncConnector:
    """Each call blocks its thread until the owning loop answers, `timeout` seconds at most.

    Every method takes `timeout` in seconds. None is the setting `sync_timeout`. A method returns what the connector's
    method of the same name returns. `scan`, `scan_outdated` and `iterate` return iterators, which make one call for
    each batch, and `put_all` makes one for each; `timeout` is that of one call.

    Raises:
        What the connector's method raises.
        SyncTimeoutError: no answer in time. The operation was cancelled.
        SyncCallOnLoopError: on the owning loop's own thread.
    """

    def __init__(
        self,
        connector: RemoteConnector,
        owner: LoopOwner,
        timeout: float,
        memory: Callable[[], ChunkMemory],
        windows: Callable[[Iterable[Any]], WindowedGets[Any]],
    ) -> None:
        """`memory` is that of the connector's chunks. `windows` gets keys from the connector in windows."""
        self._connector = connector
        self._memory = memory
        self._windows = windows
        self._owner = owner
        self._timeout = timeout
        self.own_thread: OwnThread | None = None
        """What makes single calls in their caller's own thread, where the connector offers that."""

    def exists(self, key: Key, timeout: float | None = None) -> bool:
        """See `ManagedConnector.exists`."""
        if (here := self.own_thread) is not None:
            is_there: bool = here.exists(key, self._timeout if timeout is None else timeout)
            if is_there is not NOT_HERE:
                return is_there
        return self._call("exists", timeout, self._connector.exists, key)

    def get(self, key: Key, timeout: float | None = None) -> MemoryObj | None:
        """See `ManagedConnector.get`."""
        if (here := self.own_thread) is not None:
            found: MemoryObj | None = here.get(key, self._timeout if timeout is None else timeout)
            if found is not NOT_HERE:
                return found
        return self._call("get", timeout, self._connector.get, key)

    def put(self, key: Key, memory_obj: MemoryObj, timeout: float | None = None) -> None:
        """See `ManagedConnector.put`."""
        if (here := self.own_thread) is not None:
            stored = here.put(key, memory_obj, self._timeout if timeout is None else timeout)
            if stored is not NOT_HERE:
                return
        self._call("put", timeout, self._connector.put, key, memory_obj)

    def remove(self, key: Key, timeout: float | None = None) -> bool:
        """See `ManagedConnector.remove`."""
        return self._call("remove", timeout, self._connector.remove, key)

    def list(self, timeout: float | None = None) -> list[str]:
        """See `ManagedConnector.list`."""
        return self._call("list", timeout, self._connector.list)

    def scan(self, prefix: str = "", timeout: float | None = None) -> Iterator[str]:
        """See `ManagedConnector.scan`."""
        return self._each("scan", timeout, self._connector.scan(prefix), _NAMES_AT_ONCE)

    def scan_outdated(self, prefix: str = "", timeout: float | None = None) -> Iterator[str]:
        """See `ManagedConnector.scan_outdated`."""
        return self._each("scan_outdated", timeout, self._connector.scan_outdated(prefix), _NAMES_AT_ONCE)

    def remove_outdated(self, names: Sequence[str], timeout: float | None = None) -> int:
        """See `ManagedConnector.remove_outdated`."""
        return self._call("remove_outdated", timeout, self._connector.remove_outdated, names)

    def ping(self, timeout: float | None = None) -> int:
        """See `ManagedConnector.ping`."""
        return self._call("ping", timeout, self._connector.ping)

    def contains(self, keys: Sequence[Key], timeout: float | None = None) -> int:
        """Returns how many keys there are before the first that the store does not hold."""
        return prefix_length(self.batched_exists(keys, timeout))

    def batched_exists(self, keys: Sequence[Key], timeout: float | None = None) -> Sequence[bool]:
        """See `ManagedConnector.batched_exists`."""
        return self._call("batched_exists", timeout, self._connector.batched_exists, keys)

    def batched_get(self, keys: Sequence[Key], timeout: float | None = None) -> Sequence[MemoryObj | None]:
        """See `ManagedConnector.batched_get`."""
        return self._call("batched_get", timeout, self._connector.batched_get, keys)

    def batched_get_non_blocking(
        self, lookup_id: str, keys: Sequence[Key], timeout: float | None = None
    ) -> Sequence[MemoryObj]:
        """See `ManagedConnector.batched_get_non_blocking`. Also this one blocks the thread; the name is LMCache's."""
        call = self._connector.batched_get_non_blocking
        return self._call("batched_get_non_blocking", timeout, call, lookup_id, keys)

    def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj], timeout: float | None = None) -> None:
        """See `ManagedConnector.batched_put`."""
        self._call("batched_put", timeout, self._connector.batched_put, keys, memory_objs)

    def get_into(
        self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None, timeout: float | None = None
    ) -> bool:
        """See `ManagedConnector.get_into`."""
        with CallerMemory.of([key], [buffer], metadata, writable=True) as theirs:
            if (here := self.own_thread) is not None:
                done = here.get_into(theirs, self._timeout if timeout is None else timeout)
                if done is not NOT_HERE:
                    return bool(done.flags[0])
            return self._call("get_into", timeout, self._connector.get_into, key, theirs.regions[0], metadata)

    def put_from(
        self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None, timeout: float | None = None
    ) -> bool:
        """See `ManagedConnector.put_from`."""
        with CallerMemory.of([key], [buffer], metadata, writable=False) as theirs:
            if (here := self.own_thread) is not None:
                done = here.put_from(theirs, self._timeout if timeout is None else timeout)
                if done is not NOT_HERE:
                    return bool(done.flags[0])
            return self._call("put_from", timeout, self._connector.put_from, key, theirs.regions[0], metadata)

    def batched_get_into(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        metadata: Descriptions = None,
        timeout: float | None = None,
    ) -> Sequence[bool]:
        """See `ManagedConnector.batched_get_into`."""
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:
            return self._call(
                "batched_get_into",
                timeout,
                self._connector.batched_get_into,
                theirs.keys,
                theirs.regions,
                theirs.descriptions,
            )

    def batched_put_from(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        metadata: Descriptions = None,
        timeout: float | None = None,
    ) -> Sequence[bool]:
        """See `ManagedConnector.batched_put_from`."""
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:
            return self._call(
                "batched_put_from",
                timeout,
                self._connector.batched_put_from,
                theirs.keys,
                theirs.regions,
                theirs.descriptions,
            )

    def batched_remove(self, keys: Sequence[Key], timeout: float | None = None) -> Sequence[bool]:
        """See `ManagedConnector.batched_remove`."""
        return self._call("batched_remove", timeout, self._connector.batched_remove, keys)

    def describe(
        self, keys: Sequence[Key], *, records: bool = False, timeout: float | None = None
    ) -> Sequence[KeyFacts | None]:
        """See `ManagedConnector.describe`."""
        return self._call("describe", timeout, partial(self._connector.describe, keys, records=records))

    def expire(self, keys: Sequence[Key], ttls: Sequence[float], timeout: float | None = None) -> Sequence[bool]:
        """See `ManagedConnector.expire`."""
        return self._call("expire", timeout, self._connector.expire, keys, ttls)

    # ------------------------------------------------------------------------------- for applications, from these

    @contextmanager
    def chunk(self, key: Key, timeout: float | None = None) -> Iterator[MemoryObj]:
        """See `ManagedConnector.chunk`."""
        chunk = self.get(key, timeout)
        if chunk is None:
            raise ChunkMissingError(key_string(key))
        with chunk:
            yield chunk

    def put_tensor(self, key: Key, tensor: torch.Tensor, timeout: float | None = None) -> None:
        """See `ManagedConnector.put_tensor`."""
        self.put(key, chunk_of(tensor), timeout)

    def get_tensor(self, key: Key, timeout: float | None = None) -> torch.Tensor | None:
        """See `ManagedConnector.get_tensor`."""
        chunk = self.get(key, timeout)
        return None if chunk is None else tensor_of(chunk)

    def put_array(self, key: Key, array: numpy.ndarray[Any, Any], timeout: float | None = None) -> None:
        """See `ManagedConnector.put_array`."""
        self.put(key, chunk_of(array), timeout)

    def get_array(self, key: Key, timeout: float | None = None) -> numpy.ndarray[Any, Any] | None:
        """See `ManagedConnector.get_array`."""
        chunk = self.get(key, timeout)
        return None if chunk is None else array_of(chunk)

    def iterate(
        self, keys: Iterable[KeyT], on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> Iterator[tuple[KeyT, MemoryObj | None]]:
        """See `ManagedConnector.iterate`. `keys` is read to its end at once, in this thread.

        Leaving the loop waits until what was under way ahead of it has ended.
        """
        check_batch(keys)  # type: ignore[arg-type]  # any iterable but a string
        return self._chunks(list(keys), on_progress, timeout)

    def _chunks(
        self, keys: Sequence[KeyT], on_progress: OnProgress | None, timeout: float | None
    ) -> Iterator[tuple[KeyT, MemoryObj | None]]:
        tally = Tally(keys, on_progress)
        for window in self._each("iterate", timeout, self._windows(keys).windows(), 1):
            for index, key in enumerate(window.keys):
                obj = window.take(index)
                if obj is None and window.is_short:
                    obj = self.get(key, timeout)
                nbytes = 0 if obj is None else obj.get_size()
                try:
                    yield key, obj
                finally:
                    release_all(obj)  # unless the caller did
                tally.add(1, obj is not None, nbytes)

    def put_all(
        self, pairs: Iterable[Pair], on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> int:
        """See `ManagedConnector.put_all`. `pairs` is read in this thread, between batches."""
        tally = Tally(pairs, on_progress)
        for window in windows_of(pairs, self._memory()):
            self._call("put_all", timeout, self._connector.batched_put, window.keys, window.objs)
            tally.add(len(window.keys), len(window.keys), window.nbytes)
        return tally.done

    def close(self, timeout: float | None = None) -> None:
        """See `ManagedConnector.close`."""
        if self._owner.is_forked():  # the loop, the connections and the memory are the parent's
            return
        if self._owner.is_closed:  # which it is only after every connector that runs on it
            return
        self._call("close", timeout, self._connector.close)
        self._owner.join()  # where the connector owned its loop, the loop's thread ends with it

    def _call(
        self, operation: str, timeout: float | None, func: Callable[..., Coroutine[Any, Any, T]], *args: Any
    ) -> T:
        return self._owner.run_sync(operation, self._timeout if timeout is None else timeout, func, *args)

    def _each(self, operation: str, timeout: float | None, source: AsyncIterator[T], at_once: int) -> Iterator[T]:
        """Yields what `source` yields on the owning loop, with one call for `at_once` items."""
        try:
            while items := self._call(operation, timeout, _next_of, source, at_once):
                yield from items
        finally:
            try:
                self._call(operation, timeout, _close, source)
            except (ConnectorClosedError, ForkedProcessError, LoopNotRunningError, SyncCallOnLoopError):
                pass  # the loop has ended and closed it, or is another process's, or closes it when it is collected


async def _next_of(source: AsyncIterator[T], count: int) -> list[T]:
    """The next items, `count` at most; none at the end."""
    found: list[T] = []
    async for item in source:
        found.append(item)
        if len(found) == count:
            break
    return found


async def _close(source: AsyncIterator[object]) -> None:
    if isinstance(source, AsyncGenerator):
        await source.aclose()
