"""`RedisConnector`: the connector of Redis servers. It moves chunks between memory and a server without a copy.

It ties these together:

* `Server` (`topology/`) opens connections, and `Connection` (`protocol/`) sends commands and reads replies.
* A `Layout` (`layouts/`) knows which keys and values a chunk has. `framed` is ours, `two_key` is LMCache's.
* `FetchLane`, `StoreLane` and `LookupLane` have calls that are made at the same time share connections.
* `Announcements` keeps the documents of the processes that use the server.

The base, `StreamingConnector`, has the pools, the threads and the line for room.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Final, TypeVar

from lmcache_connect import AuthenticationError, ConnectorContext, CorruptRecordError, Key, StoreError, key_string
from lmcache_connect.contract import (
    ChunkSize,
    Documents,
    FactSlots,
    Finding,
    Flags,
    KeyFacts,
    OwnThreadCalls,
    ServerFacts,
    leave_out,
    note_progress,
)
from lmcache_connect.errors import StoreCommandError, UnsupportedOperationError, WrongNodeError, WrongTypeError
from lmcache_connect.keys import MAX_KEY_BYTES, key_strings
from lmcache_connect.observability import event
from lmcache_connect.record import chunk_of_piece
from lmcache_connect.streaming import (
    LARGE_BYTES,
    NAMES_AT_A_TIME,
    SMALL_SHARE_BYTES,
    Arrivals,
    ChunkBytes,
    RoomLine,
    StreamingConnector,
)
from lmcache_connect.transport import StreamClosedError, StreamStalledError, ThreadConnections

from .announcements import Announcements
from .credentials.credentials import Credentials
from .facts import INFO_LIMIT, facts_in
from .layouts.framed.layout import FramedLayout
from .layouts.framed.outdated import OUTDATED_HEADER_BYTES, is_outdated, outdated_chunk
from .layouts.layout import Layout
from .layouts.two_key.layout import TwoKeyLayout
from .leftovers import Leftovers
from .options import RedisOptions, probe_of
from .own_thread import RedisOwnThread
from .pipelines.fetch_pipeline import FetchLane
from .pipelines.lookup_pipeline import LookupCall, LookupLane
from .pipelines.store_pipeline import StoreCall, StoreLane, StoreRequest
from .protocol.connection import Connection, lost_connection
from .protocol.questions import Answer, Questions, redirect_among
from .protocol.redirects import ASKING, RedirectedError, RedirectionsError
from .protocol.replies import encode_command, encode_for_each, is_refusal
from .protocol.setup import log_in_again
from .protocol.transaction import TransactionRefusedError
from .topology.server import Server
from .way import Way

T = TypeVar("T")

Names = list[str]

_SCAN_COUNT: Final = 1000

_MAX_NAME_BYTES: Final = 3 * MAX_KEY_BYTES
"""The longest name of a chunk is that of a key of braces, with a prefix."""

_THREAD_CONNECTIONS: Final = 1
"""Connections of blocking callers. Those that come meanwhile use the event loop, where they share round trips: with 16
threads that costs a call less than a connection for each thread."""

_LONE_BYTES: Final = 4 << 20
"""A get of one chunk up to this size stays on the event loop where no other get is under way. A thread would have to
take the connection over and tell the loop of the outcome, which costs more: see `docs/speed.md`."""

_SCAN_BYTES: Final = 64 << 20
"""What one answer to SCAN may hold in all."""


class RedisConnector(StreamingConnector[Connection]):
    """Stores chunks on one server. Made by `RedisConnectorAdapter`."""

    def __init__(
        self,
        context: ConnectorContext,
        options: RedisOptions,
        server: Server,
        *,
        credentials: Credentials | None = None,
        line: RoomLine | None = None,
        chunk_size: ChunkSize | None = None,
        part_options: RedisOptions | None = None,
    ) -> None:
        """`credentials` are closed with the connector. None: `server` has some that others close.

        `line` and `chunk_size`: see `StreamingConnector`. `part_options`: how pieces of spread chunks are put, by
        `Way.PART`; None: there are none.
        """
        super().__init__(
            context,
            pool_size=options.pool_size,
            lookup_pool_size=1,
            connect_timeout=options.connect_timeout,
            io=options.io,
            lost=lost_connection,
            renew=log_in_again,
            line=line,
            chunk_size=chunk_size,
        )
        self._server = server
        self._options = options
        self._credentials = credentials
        self._prefix = f"{options.prefix}:" if options.prefix else ""
        self._probe = probe_of(options)
        self._was_told: set[str] = set()
        self._announcements = Announcements(self._prefix)
        self._layout = layout_of(self._store, options)
        # Of its own, since it guesses from the last chunk how the next one is stored.
        self._part_layout = self._layout if part_options is None else layout_of(self._store, part_options)
        self._leftovers = Leftovers(self._lookup_pool)
        self._has_dialled = False
        self._lookups = LookupLane(self._lookup_pool, self._layout.keys_each)
        # Small calls have connections of their own, so that they do not wait behind large ones.
        small = self._new_pool(options.pool_size)
        count = options.pool_size
        couriers = None if math.isinf(self._threads_from) else self._couriers
        # One thread serves one connection. On the event loop, several connections move more than one.
        getting = count if couriers is None else min(count, _threads_for_gets(is_one_of_several=line is not None))
        putting = count if couriers is None else 1
        self._small_gets = FetchLane(small, spare_drivers=count - 1, share_bytes=SMALL_SHARE_BYTES)
        self._large_gets = FetchLane(
            self._chunk_pool, drivers=getting, spare_drivers=count - getting, couriers=couriers, runs_alone=False
        )
        self._waiting_gets = FetchLane(self._waiting_pool)
        self._small_puts = StoreLane(small, spare_drivers=count - 1, share_bytes=SMALL_SHARE_BYTES)
        self._large_puts = StoreLane(
            self._chunk_pool,
            drivers=putting,
            spare_drivers=count - putting,
            couriers=couriers,
            runs_alone=False,
        )
        self._large_from = min(self._threads_from, LARGE_BYTES)
        # Of a group, each server may get a chunk of one call: their threads work side by side.
        self._lone_bytes = _LONE_BYTES if options.io == "auto" and line is None else 0
        self._thread_connections = ThreadConnections(_THREAD_CONNECTIONS, self._connect, context.loop)
        self._own_thread = RedisOwnThread(
            self._thread_connections,
            self._layout,
            self._line,
            self._chunk_size,
            (self._lookups, self._small_gets, self._small_puts),
            partial(self._lost_one, self._store),
            context.loop,
            self._large_from or LARGE_BYTES,
        )

    def own_thread_calls(self) -> OwnThreadCalls | None:
        # `io=loop` wants none. A derived class may have calls of its own.
        is_allowed = type(self) is RedisConnector and not math.isinf(self._threads_from)
        return self._own_thread if is_allowed else None

    async def dial(self) -> Connection:
        connection = await self._server.open_connection()
        for layout in (self._layout, self._part_layout):
            layout.has_transactions = connection.traits.has_transactions
            layout.remove_command = "UNLINK" if connection.traits.has_unlink else "DEL"
        self._has_dialled = True
        return connection

    def names_of(self, keys: Sequence[str]) -> Names:
        return self._layout.names_of(keys)

    async def diagnose(self, timeout: float) -> AsyncIterator[Finding]:
        """See `Diagnosable`."""
        from .diagnosis.single_or_sentinel import diagnose_url

        async for finding in diagnose_url(self._server, self._options, timeout):
            yield finding

    async def bytes_free(self) -> int | None:
        """See `TellsRoom`."""
        from .diagnosis.server_facts import read_room

        return await self.over_lookups(read_room)

    async def close(self) -> None:
        await self._leftovers.close()
        self._thread_connections.close()
        await super().close()
        for lane in (self._lookups, self._small_gets, self._large_gets, self._small_puts, self._large_puts):
            await lane.close()
        if self._credentials is not None:
            self._credentials.close()

    def _lost_one(self, store: str, error: StreamClosedError) -> StoreError:
        if isinstance(error, StreamStalledError):
            self._thread_connections.close_free()
        return super()._lost_one(store, error)

    # ------------------------------------------------------------------------------------------------- look-ups

    async def ping(self) -> int:
        """Returns 0 when the server answers, also where the user may not use PING."""
        async with self._lookup_pool.acquired() as connection:
            is_plain = connection.traits.knows_little
            await connection.send(encode_command(b"EXISTS", self._probe) if is_plain else encode_command(b"PING"))
            with suppress(WrongNodeError) if is_plain else nullcontext():  # the probe may be another node's
                await connection.read_taken()
        return 0

    async def server_facts(self) -> Sequence[ServerFacts]:
        """What the server answers to INFO; nothing where it has no INFO, or not for this user."""
        async with self._lookup_pool.acquired() as connection:
            if connection.traits.knows_little:
                return ()
            await connection.send(encode_command(b"INFO"))
            try:
                answer = await connection.read_value(INFO_LIMIT)
            except (AuthenticationError, StoreCommandError) as error:
                if connection.is_suspect:
                    raise
                self._tell_once("server_facts_unread", error)
                return ()
        facts = facts_in(answer.decode("utf-8", "replace"))
        return () if facts is None else (facts,)

    async def exists(self, key: Key) -> bool:
        """Returns whether the server holds the chunk."""
        return (await self._look_up((key,), self._layout.encode_exists))[0]

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for each key whether the server holds its chunk. One round trip for all keys."""
        return await self._look_up(keys, self._layout.encode_exists)

    async def remove(self, key: Key) -> bool:
        """Removes the chunk. Returns whether it was there. The server frees its memory in the background."""
        return (await self._look_up((key,), self._layout.encode_remove))[0]

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes the chunks. Returns for each whether it is gone now. One round trip for all keys."""
        await self._look_up(keys, self._layout.encode_remove)
        return [True] * len(keys)

    async def names_held(self, names: Sequence[str], way: Way = Way.PLAIN) -> Flags:
        """`batched_exists` for the names of chunks in the store.

        Raises:
            RedirectionsError: the node of a cluster has not answered for some of them.
        """
        return await self._look_names_up(names, self._layout.encode_exists, way)

    async def names_removed(self, names: Sequence[str], way: Way = Way.PLAIN) -> Flags:
        """Removes chunks by their names in the store. Returns for each whether it was there.

        Raises:
            RedirectionsError: the node of a cluster has not removed some of them.
        """
        return await self._look_names_up(names, self._layout.encode_remove, way)

    async def _look_up(self, keys: Sequence[Key], encode: Callable[[Sequence[str]], bytes]) -> Flags:
        """Sends one command for each key. Returns for each whether it found all names of the chunk."""
        if not keys:
            return []
        call = LookupCall(keys, lambda some: encode(self.names_of(key_strings(some))))
        await self._lookups.run(call)
        return call.flags

    async def _look_names_up(self, names: Sequence[str], encode: Callable[[Sequence[str]], bytes], way: Way) -> Flags:
        if way is Way.ASKING:
            return await self._look_up_asking(names, encode)
        call = LookupCall(names, encode)
        try:
            await self._lookups.run(call)
        except RedirectionsError as redirections:
            redirections.flags = {at: flag for at, flag in enumerate(call.flags) if at not in redirections.by_slot}
            raise
        return call.flags

    async def _look_up_asking(self, names: Sequence[str], encode: Callable[[Sequence[str]], bytes]) -> Flags:
        """`_look_names_up` at a node that only is about to get the slots."""
        flags: list[bool] = []
        redirected: dict[int, RedirectedError] = {}
        async with self._lookup_pool.acquired() as connection:
            for start in range(0, len(names), NAMES_AT_A_TIME):
                commands = [ASKING + encode((name,)) for name in names[start : start + NAMES_AT_A_TIME]]
                await connection.send(b"".join(commands), replies=2 * len(commands))
                for _ in commands:
                    await connection.read_ok()
                    try:
                        flags.append(await connection.read_integer() == self._layout.keys_each)
                    except RedirectedError as error:
                        redirected[len(flags)] = error.with_traceback(None)
                        flags.append(False)
        if redirected:
            redirections = RedirectionsError(self._store, redirected)
            redirections.flags = {at: flag for at, flag in enumerate(flags) if at not in redirected}
            raise redirections
        return flags

    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """What the server says of each key's chunk. See `RemoteConnector`."""
        _, names = await self._named(keys)
        return [only_facts(found) for found in await self.names_described(names, records=records)]

    async def names_described(
        self, names: Sequence[str], *, records: bool, way: Way = Way.PLAIN
    ) -> list[KeyFacts | RedirectedError | None]:
        """`describe` for the names of chunks. What another node of a cluster has stands there as what this one said."""
        found: list[KeyFacts | RedirectedError | None] = []
        async with self._lookup_pool.acquired() as connection:
            if connection.traits.knows_little:
                await connection.send(self._layout.encode_exists(names), replies=len(names))
                flags = await connection.read_flags(self._layout.keys_each)
                return [KeyFacts(server=self._store) if is_there else None for is_there in flags]
            questions = Questions(connection, is_asking=way is Way.ASKING)
            for start in range(0, len(names), NAMES_AT_A_TIME):
                some = names[start : start + NAMES_AT_A_TIME]
                found += await self._layout.describe(questions, some, self._store, records=records)
                note_progress()
        return found

    async def expire(self, keys: Sequence[Key], ttls: Sequence[float]) -> Flags:
        """Sets the time to live of chunks. See `RemoteConnector`."""
        _, names = await self._named(keys)
        return [only_flag(found) for found in await self.names_expired(names, ttls)]

    async def names_expired(
        self, names: Sequence[str], ttls: Sequence[float], way: Way = Way.PLAIN
    ) -> list[bool | RedirectedError]:
        """`expire` for the names of chunks. What another node of a cluster has stands there as what this one said.

        Raises:
            StoreError: the server has refused it.
        """
        flags: list[bool | RedirectedError] = []
        async with self._lookup_pool.acquired() as connection:
            questions = Questions(connection, is_asking=way is Way.ASKING)
            for start in range(0, len(names), NAMES_AT_A_TIME):
                some = names[start : start + NAMES_AT_A_TIME]
                times = [b"%d" % max(1, round(ttl * 1000)) for ttl in ttls[start : start + NAMES_AT_A_TIME]]
                commands = [
                    [encode_command(b"PEXPIRE", key, time) for key in self._layout.keys_of(name)]
                    for name, time in zip(some, times, strict=True)
                ]
                answers = iter(await questions.ask([command for each in commands for command in each], 0))
                flags += [_is_set([next(answers) for _ in each]) for each in commands]
                note_progress()
        return flags

    async def over_lookups(self, use: Callable[[Connection], Awaitable[T]]) -> T:
        """Returns what `use` returns, which is given a connection of the look-ups."""
        async with self._lookup_pool.acquired() as connection:
            return await use(connection)

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """Looks at a damaged record again, over another connection. Removes it if the server holds what was seen.

        The server compares and removes in one step. So a chunk that was damaged on its way, or put again, stays.
        """
        [name] = self.names_of([key_string(key)])
        async with self._lookup_pool.acquired() as connection:
            removal = await self._layout.encode_removal_of_damage(connection, name)
            return removal is not None and await self.remove_seen(connection, removal)

    async def remove_seen(self, connection: Connection, removal: bytes) -> bool:
        """Sends a command that removes what was seen, and nothing else. Returns whether it has removed something.

        Raises:
            UnsupportedOperationError: the server has no scripts, or not for this user.
        """
        await connection.send(removal)
        line = await connection.read_line()
        if line[:1] == b"-" and is_refusal(line[1:].decode("utf-8", "replace")):
            connection.pending -= 1
            raise UnsupportedOperationError(self._store, "remove_damaged")
        if line[:1] != b":":
            raise connection.unexpected(line, "an integer")
        connection.pending -= 1
        return connection.number(line) > 0

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the keys under the connector's prefix that start with `prefix`. The server may name one twice."""
        pattern = self._layout.listed_pattern(prefix).encode()
        async for name in self._scan(pattern, *self._layout.listed_type):
            key = self._layout.listed_key(name)
            if key is not None and key.startswith(prefix):
                yield key

    async def scan_outdated(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the names of what release 0.1 stored under keys that start with `prefix`: chunks and their parts."""
        pattern = self._layout.outdated_pattern(prefix)
        if pattern is None:
            return
        page: Names = []
        async for name in self._scan(pattern.encode(), b"TYPE", b"string"):
            if outdated_chunk(name) is not None:
                page.append(name)
            if len(page) == NAMES_AT_A_TIME:
                for found in await self._outdated_among(page):
                    yield found
                page = []
        for found in await self._outdated_among(page):
            yield found

    async def scan_pieces(self, prefix: str) -> AsyncIterator[Names]:
        """Yields the names of pieces of spread chunks whose keys start with `prefix`, some at a time."""
        page: Names = []
        async for name in self._scan(self._layout.pieces_pattern(prefix).encode()):
            if chunk_of_piece(name) is not None:
                page.append(name)
            if len(page) == NAMES_AT_A_TIME:
                yield page
                page = []
        if page:
            yield page

    @property
    def remove_command(self) -> str:
        """What removes a name."""
        return self._layout.remove_command

    async def _outdated_among(self, names: Sequence[str]) -> Names:
        if not names:
            return []
        last = b"%d" % (OUTDATED_HEADER_BYTES - 1)
        async with self._lookup_pool.acquired() as connection:
            commands = [encode_command(b"GETRANGE", name.encode(), b"0", last) for name in names]
            await connection.send(b"".join(commands), replies=len(commands))
            found: Names = []
            for name in names:
                try:
                    start = await connection.read_value(OUTDATED_HEADER_BYTES)
                except WrongTypeError:
                    continue  # it was replaced meanwhile
                except (AuthenticationError, StoreCommandError) as error:
                    if connection.is_suspect:
                        raise
                    self._tell_once("outdated_unread", error)  # no GETRANGE, or not for this user
                    continue
                if is_outdated(name, start):
                    found.append(name)
        note_progress()
        return found

    def _tell_once(self, name: str, error: StoreError) -> None:
        if name not in self._was_told:
            self._was_told.add(name)
            event(logging.INFO, name, store=self._store, error=error.message)

    async def remove_outdated(self, names: Sequence[str]) -> int:
        """Removes what `scan_outdated` has named. Returns how many were there."""
        if not names:
            return 0
        async with self._lookup_pool.acquired() as connection:
            # A command for each: in a cluster, they lie in different slots.
            await connection.send(encode_for_each(self._layout.remove_command, names), replies=len(names))
            return sum(await connection.read_flags(1))

    async def _scan(self, pattern: bytes, *kind: bytes) -> AsyncIterator[str]:
        cursor = b"0"
        passed: set[bytes] = set()
        while True:
            async with self._lookup_pool.acquired() as connection:
                await connection.send(
                    encode_command(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _SCAN_COUNT, *kind)
                )
                if connection.number(await connection.expect(b"*", "an array")) != 2:
                    raise connection.broken("SCAN answers with a cursor and an array")
                cursor = await connection.read_string(20)
                # The server decides how many it looks at, and one slot of its table may hold more than asked for.
                names = await connection.read_array(_SCAN_BYTES, _MAX_NAME_BYTES, drop_longer=True)
                connection.pending -= 1
            if cursor not in passed:  # it gets on, also where no name of this page is ours
                passed.add(cursor)
                note_progress()
            for raw in names:
                try:
                    name = raw.decode()
                except UnicodeDecodeError:
                    name = ""
                if name:
                    yield name
                else:
                    leave_out()  # not text, or too long: another program's
            if cursor == b"0":
                return

    # -------------------------------------------------------------------------------------------- announcements

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Stores a worker's document on the server, which forgets it after `ttl` seconds."""
        async with self._lookup_pool.acquired() as connection:
            await self._announcements.put(connection, worker, document, ttl)

    async def withdraw(self, worker: str) -> None:
        """Removes a worker's document."""
        async with self._lookup_pool.acquired() as connection:
            await self._announcements.remove(connection, worker)

    async def announced(self) -> Documents:
        """Returns the documents of the workers under this prefix that have not expired."""
        async with self._lookup_pool.acquired() as connection:
            return await self._announcements.read(connection)

    # -------------------------------------------------------------------------------------------------- chunks

    def receive(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        *,
        may_wait: bool = False,
        nbytes: int | None = None,
        way: Way = Way.PLAIN,
    ) -> Awaitable[None]:
        if nbytes is None:
            nbytes = self._nbytes_of(len(names))
        call = self._layout_for(way).fetching(names, arrivals, nbytes)
        call.is_asking = way is Way.ASKING
        if may_wait:
            return self._waiting_gets.run_apart(call)
        return self._get_lane(nbytes, len(names)).run(call)

    async def send(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        objs: Sequence[ChunkBytes],
        *,
        way: Way = Way.PLAIN,
    ) -> None:
        if not self._has_dialled:
            await self._put_lane(sum(obj.get_size() for obj in objs)).connect()  # which tells what the server can do
        layout = self._layout_for(way)
        while True:
            requests = layout.put_requests(names, objs, whole=way.is_whole)
            call = StoreCall(requests)
            call.is_asking = way is Way.ASKING
            try:
                await self._put_lane(call.nbytes).run(call)
            except TransactionRefusedError as refused:
                await self._leftovers.free(_staged(requests), call)
                if not layout.keep_whole():
                    raise refused.refusal from None
                event(logging.WARNING, "transactions_refused", store=self._store, error=str(refused))
            except RedirectionsError as redirected:
                gone = [request for request in requests if request.slot in redirected.by_slot]
                self._leftovers.free_soon(_staged(gone), call)
                redirected.flags = {slot: True for slot in range(len(names)) if slot not in redirected.by_slot}
                raise
            except StoreError:
                await self._leftovers.free(self._left_by(requests, names, way), call)
                raise
            except asyncio.CancelledError:
                self._leftovers.free_soon(self._left_by(requests, names, way), call)
                raise
            else:
                return

    def _layout_for(self, way: Way) -> Layout:
        return self._part_layout if way is Way.PART else self._layout

    def _left_by(self, requests: Sequence[StoreRequest], names: Sequence[str], way: Way) -> Names:
        """What a put that has failed may have left: a piece of a spread chunk is worth nothing without the others."""
        return [*_staged(requests), *names] if way is Way.PART else _staged(requests)

    def free_soon(self, names: Sequence[str]) -> None:
        """Removes names in the background, if the server lets us within a second. No call waits for it."""
        self._leftovers.free_soon(names)

    def _get_lane(self, nbytes: int, chunks: int) -> FetchLane:
        if nbytes < self._large_from:
            return self._small_gets
        is_lone = chunks == 1 and nbytes <= self._lone_bytes and self._small_gets.is_idle and self._large_gets.is_idle
        return self._small_gets if is_lone else self._large_gets

    def _put_lane(self, nbytes: int) -> StoreLane:
        return self._small_puts if nbytes < self._large_from else self._large_puts


def _threads_for_gets(*, is_one_of_several: bool) -> int:
    """How many threads receive the chunks of one server side by side, at most: see `docs/speed.md`.

    Two, since a single one and the server often share one CPU while another one is idle. Of several servers, each has
    one, and they are spread by that.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if is_one_of_several else min(2, cores)


def only_facts(found: KeyFacts | RedirectedError | None) -> KeyFacts | None:
    """Returns what was found. Raises what names another node."""
    if isinstance(found, RedirectedError):
        raise found
    return found


def only_flag(found: bool | RedirectedError) -> bool:
    """Returns what was found. Raises what names another node."""
    if isinstance(found, RedirectedError):
        raise found
    return found


def _is_set(answers: Sequence[Answer]) -> bool | RedirectedError:
    if (redirected := redirect_among(answers)) is not None:
        return redirected
    for answer in answers:
        if isinstance(answer, StoreError):
            raise answer
    return all(answer == 1 for answer in answers)


def layout_of(store: str, options: RedisOptions) -> Layout:
    """Returns the layout that a URL asks for."""
    return (TwoKeyLayout if options.layout == "lmcache" else FramedLayout)(store, options)


def _staged(requests: Sequence[StoreRequest]) -> Names:
    return [name for request in requests for name in request.staged()]
