"""`OutsideConnector`: around a connector that we did not write, so that whatever it does stays there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ..contract import (
    CallerMemory,
    Descriptions,
    Documents,
    FactSlots,
    Flags,
    KeyFacts,
    RemoteConnector,
    RemovalPolicy,
    ServerFacts,
    ServerState,
    Slots,
    Staging,
    WrappingConnector,
    gather,
)
from ..errors import ConnectorContractError, CorruptRecordError
from ..keys import Key
from ..loop import LoopOwner
from ..memory import ChunkMemory, MemoryObj, release_all
from ..outside import Lane, contained, private_copy, private_copy_of

T = TypeVar("T")

_SCAN_PAGE: Final = 250
"""Names of a scan that are fetched in one task, since a task for each would cost more than the name."""


class OutsideConnector(WrappingConnector):
    """Runs each call of `wrapped`, and each look at what it returns, in a task of `lane`.

    A call that does not end with its caller is left behind. So a `put` is given a private copy of the chunk, which is
    released when the call has ended, and a chunk that nobody receives is released. What the connector raises beside
    `Exception` and `KeyboardInterrupt` becomes a `ConnectorFailureError`.
    """

    def __init__(self, wrapped: RemoteConnector, lane: Lane, memory: ChunkMemory) -> None:
        # Not WrappingConnector's __init__: it reads attributes, which may be other people's properties.
        self.wrapped = wrapped
        self.lane: Final = lane
        self._memory = memory
        self._class = type(getattr(wrapped, "foreign", wrapped)).__qualname__
        with self._contained("repeats_itself"):
            self.repeats_itself = bool(wrapped.repeats_itself)
        with self._contained("judges_itself"):
            self.judges_itself = bool(wrapped.judges_itself)

    async def around(self, operation: str, keys: Sequence[Key], call: Callable[[], Awaitable[T]]) -> T:
        """Awaits `call()` in a task of the lane, and returns its result as this toolkit's own types."""

        async def run() -> Any:
            return self._taken(operation, await call())

        taken: T = await self.lane.run_in_task(self._what(operation), run, on_late=release_all)
        return taken

    # Where the author has no batches of their own, ours call one key at a time, each in a task that is guarded: in
    # tasks of the author's a SystemExit would end the event loop.

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """Passes the call through. See `RemoteConnector`."""
        if self._has_own("batched_get"):
            return await super().batched_get(keys)
        return await RemoteConnector.batched_get(self, keys)

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Passes the call through. See `RemoteConnector`."""
        if self._has_own("batched_exists"):
            return await super().batched_exists(keys)
        return await RemoteConnector.batched_exists(self, keys)

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Passes the call through. See `RemoteConnector`."""
        if self._has_own("batched_remove"):
            return await super().batched_remove(keys)
        return await RemoteConnector.batched_remove(self, keys)

    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """Passes the call through. See `RemoteConnector`."""
        if self._has_own("describe"):
            return await self.around("describe", keys, lambda: self.wrapped.describe(keys, records=records))
        return await RemoteConnector.describe(self, keys, records=records)

    def _has_own(self, method: str) -> bool:
        with self._contained(method):
            return getattr(type(self.wrapped), method, None) is not getattr(RemoteConnector, method)

    def _taken(self, operation: str, found: Any) -> Any:
        match operation:
            case "exists" | "remove" | "remove_damaged":
                return bool(found)
            case "get":
                return self._chunk(operation, found)
            case "describe":
                return self._facts(operation, found)
            case "batched_exists" | "batched_remove" | "expire":
                return [bool(item) for item in found]
            case "list":
                return list(found or ())
            case "ping":
                return int(found)
            case "batched_get" if found is not None:
                chunks = list(found)
                try:
                    taken = [self._chunk(operation, item) for item in chunks]
                except BaseException:
                    release_all(chunks)
                    raise
                return taken if isinstance(found, list) else tuple(taken)
            case _:
                return found

    def _chunk(self, operation: str, found: object) -> MemoryObj | None:
        if found is None or isinstance(found, MemoryObj):
            return found
        got, expected = f"returned a {type(found).__qualname__}", "a MemoryObj, or None for a miss"
        raise ConnectorContractError(self._class, operation, got, expected)

    def _facts(self, operation: str, found: object) -> FactSlots:
        if isinstance(found, list) and all(item is None or isinstance(item, KeyFacts) for item in found):
            return found
        got = f"returned a {type(found).__qualname__}"
        raise ConnectorContractError(self._class, operation, got, "a list of KeyFacts or None")

    # ---------------------------------------------------------------------------------------------------- puts

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Stores a private copy. See `RemoteConnector`."""
        copy = await private_copy(memory_obj, self._memory)
        await self._put("put", [copy], lambda: self.wrapped.put(key, copy))

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Stores private copies. See `RemoteConnector`."""
        if not self._has_own("batched_put"):
            await RemoteConnector.batched_put(self, keys, memory_objs)
            return
        copies: list[MemoryObj] = []
        try:
            for obj in memory_objs:
                copies += [await private_copy(obj, self._memory)]
        except BaseException:
            release_all(copies)
            raise
        # A list of its own: what is released later is not what the connector may have changed.
        await self._put("batched_put", copies, lambda: self.wrapped.batched_put(keys, list(copies)))

    # What the connector does may outlive its caller, so it is never given the caller's memory, whatever methods it has.
    # A get copies what has come. A put is given copies, which it may keep.

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Stores private copies. See `RemoteConnector`."""
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:
            return await gather([partial(self._put_from, theirs, index) for index in range(len(theirs.keys))])

    async def _put_from(self, theirs: CallerMemory, index: int) -> bool:
        key = theirs.keys[index]
        copy = await private_copy_of(theirs.regions[index], theirs.stored_as(index), self._memory)
        await self._put("put", [copy], lambda: self.wrapped.put(key, copy))
        return True

    async def _put(self, operation: str, copies: list[MemoryObj], call: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await call()

        nbytes = sum(obj.get_size() for obj in copies)
        await self.lane.run_in_task(
            self._what(operation), run, nbytes=nbytes, on_end=partial(release_all, copies), on_late=None
        )

    # -------------------------------------------------------------------------------------------------- others

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Passes the call through. See `RemoteConnector`."""
        names: Any = None

        async def page() -> list[str]:
            nonlocal names
            if names is None:
                names = aiter(self.wrapped.scan(prefix))
            found: list[str] = []
            async for name in names:
                found.append(name)
                if len(found) == _SCAN_PAGE:
                    break
            return found

        async def end() -> None:
            if (close := getattr(names, "aclose", None)) is not None:
                await close()

        what = self._what("scan")
        try:
            while found := await self.lane.run_in_task(what, page):
                for name in found:
                    yield name
        finally:
            await self.lane.run_in_task(what, end)

    def support_ping(self) -> bool:
        """Whether the connector inside can ask its store."""
        with self._contained("support_ping"):
            return bool(self.wrapped.support_ping())

    def support_expiry(self) -> bool:
        """Whether the connector inside can tell its store when to forget a chunk."""
        with self._contained("support_expiry"):
            return bool(self.wrapped.support_expiry())

    def support_announcements(self) -> bool:
        """Whether the connector inside can keep announcements."""
        with self._contained("support_announcements"):
            return bool(self.wrapped.support_announcements())

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.around("announce", (), lambda: self.wrapped.announce(worker, document, ttl))

    async def withdraw(self, worker: str) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.around("withdraw", (), lambda: self.wrapped.withdraw(worker))

    async def announced(self) -> Documents:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("announced", (), self.wrapped.announced)

    async def server_facts(self) -> Sequence[ServerFacts]:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("server_facts", (), self.wrapped.server_facts)

    def post_init(self) -> None:
        """Passes the call through. See `RemoteConnector`."""
        with self._contained("post_init"):
            self.wrapped.post_init()

    def reshape_partial_chunk(self, memory_obj: MemoryObj, bytes_read: int) -> MemoryObj:
        """Passes the call through. See `RemoteConnector`."""
        with self._contained("reshape_partial_chunk"):
            return self.wrapped.reshape_partial_chunk(memory_obj, bytes_read)

    def servers(self) -> Sequence[ServerState]:
        """What the connector inside knows of its servers."""
        with self._contained("servers"):
            return [*self.wrapped.servers()]

    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.around("discard_corrupt", (key,), lambda: self.wrapped.discard_corrupt(key, error))

    async def close(self) -> None:
        """Closes the connector inside, and ends the lane's threads that have nothing to do."""

        async def run() -> None:
            await self.wrapped.close()

        try:
            await self.lane.for_closing().run_in_task(self._what("close"), run)
        finally:
            self.lane.close()

    def _attach(
        self,
        owner: LoopOwner,
        on_corrupt: Callable[[CorruptRecordError], None],
        removals: RemovalPolicy,
        staging: Staging,
    ) -> None:
        with self._contained("_attach"):
            super()._attach(owner, on_corrupt, removals, staging)

    def _what(self, operation: str) -> str:
        return f"{self._class}.{operation}"

    def _contained(self, operation: str) -> Any:
        return contained(self.lane.name, self._what(operation))
