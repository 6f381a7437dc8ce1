"""`StreamingConnector`: the base of connectors that move chunks over connections of their own."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar

import anyio

from ..contract import (
    MISMATCH,
    CallerMemory,
    ChunkSize,
    ConnectorContext,
    Descriptions,
    Flags,
    RemoteConnector,
    Slots,
    gather,
    note_missed,
    note_progress,
)
from ..errors import CorruptRecordError, InvalidArgumentError, StoreError, StoreStalledError, StoreUnavailableError
from ..keys import Key, check_batch, key_string, key_strings
from ..memory import MemoryObj
from ..transport import Connection, ConnectionPool, Couriers, StreamClosedError, StreamStalledError, lost_connection
from .arrivals import Arrivals
from .callers_room import CallersChunk, CallersRoom
from .chunk_bytes import ChunkBytes
from .room import PlaceInLine, RoomLine

LARGE_BYTES: Final = 1 << 20
"""A call that moves fewer bytes stays on the event loop: it is over before a thread would have begun."""

NAMES_AT_A_TIME: Final = 250
"""Keys that are made names before the event loop does other work."""

_LISTED_AT_A_TIME: Final = 1000
"""Keys of a listing after which its deadline begins again."""

C = TypeVar("C", bound=Connection)

IO = Literal["auto", "thread", "loop"]
"""What moves a call's bytes. `auto`: a thread for `LARGE_BYTES` and more, the event loop for less."""

Names = list[str]  # inside the class, `list` is a method


class StreamingConnector(RemoteConnector, Generic[C]):
    """Moves chunks between connections to a store and memory: the arena, or memory of a caller. No copy is made.

    This class has the pools of connections, the threads, the line of gets that wait for room, and the calls that every
    network store answers alike. A store's connector adds its protocol: `dial`, `names_of`, `receive`, `send` and its
    look-ups. Lives on one event loop. Connects on first use.
    """

    ends_when_cancelled = True
    tells_what_came = True

    def __init__(
        self,
        context: ConnectorContext,
        *,
        pool_size: int,
        lookup_pool_size: int,
        connect_timeout: float,
        io: IO,
        lost: Callable[[str, StreamClosedError], StoreError] = lost_connection,
        renew: Callable[[C], Awaitable[None] | None] | None = None,
        line: RoomLine | None = None,
        chunk_size: ChunkSize | None = None,
    ) -> None:
        """Takes what the URL's options say of connections. `lost` translates the loss of a connection.

        `renew` returns what a connection needs before its next use, such as another login; None: nothing. `line` and
        `chunk_size`: those of the connector of several servers that this one belongs to; None: its own.
        """
        super().__init__(context.config, context.metadata)
        self._store: Final = context.remote_url.label()
        self._lost: Final = lost
        self._renew: Final = renew
        self._stall_timeout: Final = context.settings.stall_timeout
        self._connect_timeout: Final = connect_timeout
        self._threads_from: Final = {"auto": LARGE_BYTES, "thread": 0, "loop": math.inf}[io]
        self._pools: Final[list[ConnectionPool[C]]] = []
        self._chunk_pool = self._new_pool(pool_size)
        # Look-ups have connections of their own: they must not wait behind megabytes.
        self._lookup_pool = self._new_pool(lookup_pool_size)
        # Used by the get that is first in line for room. See `room`: nobody else may need its connections for long.
        self._waiting_pool = self._new_pool(pool_size)
        self._line = line or RoomLine(context.local_cpu_backend, context.settings.allocate_timeout)
        self._couriers = Couriers()
        self._chunk_size = chunk_size or ChunkSize(context.metadata)

    # ------------------------------------------------------------------------------------- the store's protocol

    @abstractmethod
    async def dial(self) -> C:
        """Opens a connection that is ready for requests. The caller sets the deadline.

        Raises:
            StoreUnavailableError, AuthenticationError, CertificateError, or another `StoreError`.
        """

    @abstractmethod
    def names_of(self, keys: Sequence[str]) -> Names:
        """Returns the name of each key in the store."""

    @abstractmethod
    def receive(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        *,
        may_wait: bool = False,
        nbytes: int | None = None,
    ) -> Awaitable[None]:
        """Receives the chunks of `keys`, whose names in the store are `names`, into `arrivals`.

        A key that the store does not hold leaves its slot None. If this raises, the caller releases `arrivals`. When it
        has ended, in whatever way, nothing is received any more.

        `nbytes`: what the chunks have in all; None: that is not known.

        `may_wait`: the get may wait for room with a payload on the wire. So it stays on the event loop, and uses
        connections of `_waiting_pool`, each of them alone.
        """

    @abstractmethod
    async def send(self, keys: Sequence[str], names: Sequence[str], objs: Sequence[ChunkBytes]) -> None:
        """Sends the chunks of `keys`. When it raises, some are stored, each of them whole."""

    async def send_once(self, keys: Sequence[str], names: Sequence[str], objs: Sequence[ChunkBytes]) -> Flags:
        """`send` for memory of a caller. Returns for each key whether it was stored. Repeats nothing."""
        await self.send(keys, names, objs)
        return [True] * len(names)

    @abstractmethod
    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for each key whether the store holds it."""

    @abstractmethod
    def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the keys that start with `prefix`. May yield one twice."""

    # ---------------------------------------------------------------------------------- what every store answers

    async def exists(self, key: Key) -> bool:
        """Returns whether the store holds the key."""
        return (await self.batched_exists([key]))[0]

    async def list(self) -> Names:
        """Returns every key, each once."""
        found: dict[str, None] = {}
        async for key in self.scan():
            found[key] = None
            if not len(found) % _LISTED_AT_A_TIME:
                note_progress()
        return [*found]

    async def get(self, key: Key) -> MemoryObj | None:
        """Returns the chunk, received straight into the arena. None if the store does not hold it.

        Raises:
            CorruptRecordError: the record does not verify.
            ArenaExhaustedError: the chunk is larger than the arena, or there was no room for it in time.
        """
        texts = [key_string(key)]
        arrivals = await self._line.serve(
            self._attempt, texts, self.names_of(texts), expected=self._chunk_size.expected
        )
        found: MemoryObj | None = arrivals.found[0]
        if arrivals.is_plain:
            if found is not None:
                self._chunk_size.observe(found.get_size())
            return found
        if 0 in arrivals.too_large:
            raise arrivals.too_large.pop(0)
        if arrivals.shortage is not None:
            arrivals.raise_shortage()
        if 0 in arrivals.corrupt:
            raise arrivals.corrupt[0]
        return found

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """Returns one slot per key.

        A record that does not verify, or a chunk that is larger than the arena, is a miss in its own slot, counted.
        Where the arena has no room for all chunks, the result is the prefix that fits. The rest are misses, counted as
        `no_room`.

        Raises:
            ArenaExhaustedError: there was no room in time, and no chunk has come.
        """
        texts, names = await self._named(keys)
        arrivals = await self._line.serve(self._attempt, texts, names, expected=self._nbytes_of(len(names)))
        if (size := next((obj.get_size() for obj in arrivals.found if obj is not None), None)) is not None:
            self._chunk_size.observe(size)
        if arrivals.is_plain:
            return arrivals.found
        try:
            arrivals.count_unwanted()
            for slot, large in arrivals.too_large.items():
                arrivals.corrupt[slot] = CorruptRecordError("too_large", str(large))
            await self._discard_all(keys, arrivals)
        except BaseException:
            arrivals.release()
            raise
        return arrivals.found

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Sends the chunk straight from its memory."""
        texts = [key_string(key)]
        await self.send(texts, self.names_of(texts), (memory_obj,))

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Sends every chunk straight from its memory. When it fails, some are stored, each of them whole."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")
        texts, names = await self._named(keys)
        await self.send(texts, names, memory_objs)

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Receives every chunk straight into the caller's memory. See `RemoteConnector.batched_get_into`."""
        with CallerMemory.of(keys, buffers, metadata, writable=True) as memory:
            texts, names = await self._named(memory.keys)
            room = CallersRoom(memory)
            arrivals = Arrivals(len(names), room)
            try:
                await self.receive(texts, names, arrivals, nbytes=memory.nbytes)
            except BaseException:
                for regions, chunk in zip(memory.regions, arrivals.found, strict=True):
                    regions.is_filled = chunk is not None
                raise
            finally:
                room.release()
            if room.unfit:
                note_missed(MISMATCH, len(room.unfit))
            await self._discard_all(memory.keys, arrivals)
            return [chunk is not None for chunk in arrivals.found]

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Sends every chunk straight from the caller's memory. See `RemoteConnector.batched_put_from`."""
        with CallerMemory.of(keys, buffers, metadata, writable=False) as memory:
            texts, names = await self._named(memory.keys)
            chunks = [CallersChunk(regions, memory.stored_as(index)) for index, regions in enumerate(memory.regions)]
            try:
                return await self.send_once(texts, names, chunks)
            finally:
                for chunk in chunks:
                    chunk.ref_count_down()

    async def close(self) -> None:
        """Closes every connection. Idempotent."""
        self._couriers.close()
        for pool in self._pools:
            pool.close()

    # --------------------------------------------------------------------------------------------------- inside

    def _new_pool(self, size: int) -> ConnectionPool[C]:
        """Returns a pool whose connections are closed with the connector."""
        renew = self._renewal if self._renew is not None else None
        pool = ConnectionPool(size, self._connect, self._store, self._lost_one, renew)
        self._pools.append(pool)
        return pool

    def _lost_one(self, store: str, error: StreamClosedError) -> StoreError:
        """Translates the loss of a connection, as the store's protocol does it.

        Where one has stalled, a NAT or a firewall on the way may have forgotten all of them. So those that are idle are
        closed: otherwise each of them would cost a call `stall_timeout` seconds.
        """
        if not isinstance(error, StreamStalledError):
            return self._lost(store, error)
        for pool in self._pools:
            pool.suspect_idle()  # also from a thread
        return StoreStalledError(store, str(error))

    def _moves_in_thread(self, nbytes: int) -> bool:
        """Whether a thread moves the bytes of a call that has `nbytes` of them."""
        return nbytes >= self._threads_from

    def _nbytes_of(self, keys: int) -> int:
        """Returns how many bytes a get of so many keys probably brings."""
        return keys * self._chunk_size.expected

    async def _discard_all(self, keys: Sequence[Key], arrivals: Arrivals) -> None:
        """Discards the records that do not verify: side by side, since a removal may take a while."""
        if arrivals.corrupt:
            await gather([partial(self.discard_corrupt, keys[slot], error) for slot, error in arrivals.corrupt.items()])

    async def _attempt(self, place: PlaceInLine, texts: Names, names: Names) -> Arrivals:
        arrivals = Arrivals(len(names), place.new_room())
        try:
            await self.receive(texts, names, arrivals, may_wait=place.is_first)
            arrivals.drop_unwanted()
            if arrivals.dropped:
                await self._fill_up(texts, names, arrivals)
        except BaseException:
            arrivals.release()
            raise
        arrivals.room.release_spare()
        return arrivals

    async def _fill_up(self, texts: Sequence[str], names: Sequence[str], arrivals: Arrivals) -> None:
        """Receives slots that found no room, now that the room of later ones is free.

        Room was made in the order in which chunks came, so that one may have found none because later ones had it. Here
        one slot comes after the other.
        """
        arrivals.room.is_filled_up = True
        for slot in arrivals.reopened():
            rest = Arrivals(1, arrivals.room)
            await self.receive([texts[slot]], [names[slot]], rest, may_wait=True)
            rest.drop_unwanted()
            arrivals.add(rest, slot)
            if arrivals.wanted <= slot:
                return

    async def _named(self, keys: Sequence[Key]) -> tuple[Names, Names]:
        """Returns the keys as text, and their names in the store."""
        check_batch(keys)
        texts: Names = []
        names: Names = []
        for start in range(0, len(keys), NAMES_AT_A_TIME):
            if start:
                await asyncio.sleep(0)
            piece = key_strings(keys[start : start + NAMES_AT_A_TIME])
            texts += piece
            names += self.names_of(piece)
        return texts, names

    async def _connect(self) -> C:
        try:
            with anyio.fail_after(self._connect_timeout):
                return await self.dial()
        except TimeoutError:
            raise StoreUnavailableError(
                self._store, f"connecting did not finish within {self._connect_timeout} s"
            ) from None

    def _renewal(self, connection: C) -> Awaitable[None] | None:
        job = self._renew(connection) if self._renew is not None else None
        return None if job is None else self._in_time(job)

    async def _in_time(self, job: Awaitable[None]) -> None:
        """Awaits the renewal of a connection, for as long as connecting may take.

        Raises:
            StoreUnavailableError: it did not end in time. What else it raises.
        """
        try:
            with anyio.fail_after(self._connect_timeout):
                await job
        except TimeoutError:
            reason = f"renewing a connection did not finish within {self._connect_timeout} s"
            raise StoreUnavailableError(self._store, reason) from None
