"""`GuardedCalls`: calls that move chunks or ask for keys, each with a deadline, retries, breaker and counters."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Final

from ..contract import CallerMemory, ChunkSize, Flags, RemoteConnector, Slots
from ..keys import Key
from ..memory import MemoryObj
from .checked_calls import CheckedCalls
from .first_attempt import FirstAttempt
from .holds import Holds
from .load import Load, load_of_get, load_of_keys, load_of_put, load_of_transfer
from .operation_runner import OperationRunner
from .operations import (
    BATCHED_EXISTS,
    BATCHED_GET,
    BATCHED_GET_INTO,
    BATCHED_PUT,
    BATCHED_PUT_FROM,
    BATCHED_REMOVE,
    EXISTS,
    GET,
    GET_INTO,
    PUT,
    PUT_FROM,
    Transferred,
)


class GuardedCalls:
    """Calls the connector inside a managed one, through its runner. To be called on the owning loop.

    `first` is an attempt that a blocking caller has made in its own thread: the call goes on from there.
    """

    def __init__(
        self, runner: OperationRunner, connector: RemoteConnector, store: str, class_name: str, chunk_size: ChunkSize
    ) -> None:
        """`store`, `class_name` and `chunk_size` are as for `CheckedCalls`."""
        self._runner: Final = runner
        self._checks: Final = (store, class_name, chunk_size)
        self.use(connector)

    def use(self, connector: RemoteConnector) -> None:
        """Calls `connector` from now on: `recreate` puts another one inside."""
        self._connector = connector
        self._checked = CheckedCalls(connector, *self._checks)

    def exists(self, key: Key, first: FirstAttempt | None = None) -> Coroutine[Any, Any, bool]:
        """Whether the store holds the key."""
        return self._runner.run(EXISTS, self._connector.exists, (key,), first=first)

    def get(self, key: Key, first: FirstAttempt | None = None) -> Coroutine[Any, Any, MemoryObj | None]:
        """The chunk, or None for a miss."""
        load = self._load_of_chunks(1)
        return self._runner.run(GET, self._checked.get, (key,), load, self._connector.exists, first)

    def put(
        self, key: Key, memory_obj: MemoryObj, nbytes: int, first: FirstAttempt | None = None
    ) -> Coroutine[Any, Any, None]:
        """Stores a chunk of `nbytes` bytes."""
        load = load_of_put(1, nbytes)
        return self._runner.run(PUT, self._connector.put, (key, memory_obj), load, self._connector.exists, first)

    async def put_held(self, key: Key, memory_obj: MemoryObj, first: FirstAttempt) -> None:
        """`put` that holds the chunk itself: its caller, in a thread, may give it up."""
        with Holds((memory_obj,)):
            await self.put(key, memory_obj, memory_obj.get_size(), first)

    def batched_exists(self, keys: Sequence[Key]) -> Coroutine[Any, Any, Flags]:
        """For each key whether the store holds it."""
        return self._runner.run(BATCHED_EXISTS, self._checked.batched_exists, (keys,), load_of_keys(len(keys)))

    def batched_remove(self, keys: Sequence[Key]) -> Coroutine[Any, Any, Flags]:
        """For each key whether it is gone now."""
        return self._runner.run(BATCHED_REMOVE, self._checked.batched_remove, (keys,), load_of_keys(len(keys)))

    def batched_put(self, keys: Sequence[Key], objs: Sequence[MemoryObj], nbytes: int) -> Coroutine[Any, Any, None]:
        """Stores chunks of `nbytes` bytes in all."""
        load = load_of_put(len(keys), nbytes)
        probe = self._checked.probe if keys else None
        return self._runner.run(BATCHED_PUT, self._connector.batched_put, (keys, objs), load, probe)

    def batched_get(self, keys: Sequence[Key]) -> Coroutine[Any, Any, Slots]:
        """One slot per key: a chunk, or None."""
        load = self._load_of_chunks(len(keys))
        probe = self._checked.probe if keys else None
        return self._runner.run(BATCHED_GET, self._checked.batched_get, (keys,), load, probe)

    def get_into(self, theirs: CallerMemory, first: FirstAttempt | None = None) -> Coroutine[Any, Any, Transferred]:
        """Receives one chunk into the caller's memory."""
        load, probe = load_of_transfer(1, theirs.nbytes), self._connector.exists
        return self._runner.run(GET_INTO, self._checked.get_into, (theirs.keys[0], theirs), load, probe, first)

    def put_from(self, theirs: CallerMemory, first: FirstAttempt | None = None) -> Coroutine[Any, Any, Transferred]:
        """Stores one chunk from the caller's memory."""
        load, probe = load_of_transfer(1, theirs.nbytes), self._connector.exists
        return self._runner.run(PUT_FROM, self._checked.put_from, (theirs.keys[0], theirs), load, probe, first)

    def batched_get_into(self, theirs: CallerMemory) -> Coroutine[Any, Any, Transferred]:
        """Receives chunks into the caller's memory."""
        keys = theirs.keys
        load = load_of_transfer(len(keys), theirs.nbytes)
        probe = self._checked.probe if keys else None
        return self._runner.run(BATCHED_GET_INTO, self._checked.batched_get_into, (keys, theirs), load, probe)

    def batched_put_from(self, theirs: CallerMemory) -> Coroutine[Any, Any, Transferred]:
        """Stores chunks from the caller's memory."""
        keys = theirs.keys
        load = load_of_transfer(len(keys), theirs.nbytes)
        probe = self._checked.probe if keys else None
        return self._runner.run(BATCHED_PUT_FROM, self._checked.batched_put_from, (keys, theirs), load, probe)

    def _load_of_chunks(self, items: int) -> Load:
        *_, size = self._checks
        return load_of_get(items, size.for_deadline, size.for_budget)
