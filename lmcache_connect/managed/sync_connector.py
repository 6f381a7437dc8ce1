"""`SyncConnector`: a connector's operations for threads without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ..contract import CallerMemory, Descriptions, RemoteConnector, prefix_length
from ..keys import Key
from ..loop import LoopOwner
from ..memory import MemoryObj
from ..metadata import ChunkMetadata
from .own_thread import NOT_HERE, OwnThread

T = TypeVar("T")


class SyncConnector:
    """Each call blocks its thread until the owning loop answers, `timeout` seconds at most.

    Every method takes `timeout` in seconds. None is the setting `sync_timeout`. A method returns what the connector's
    method of the same name returns.

    Raises:
        What the connector's method raises.
        SyncTimeoutError: no answer in time. The operation was cancelled.
        SyncCallOnLoopError: on the owning loop's own thread.
    """

    def __init__(self, connector: RemoteConnector, owner: LoopOwner, timeout: float) -> None:
        self._connector = connector
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
