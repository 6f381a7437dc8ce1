"""`RingConnector`: the connector of several plain servers. A chunk lies on one of them, or is spread over several.

A spread chunk has its index under its own name, on its own server, and its pieces on the first servers of its order in
the ring. See `record/spread.py`. Every connector of a ring reads, replaces and removes spread chunks; whether it puts
such is what `?spread=` says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final

import anyio

from lmcache_connect import AuthenticationError, ConnectorContext, CorruptRecordError, Key, StoreError, key_string
from lmcache_connect.contract import FactSlots, Finding, Flags, KeyFacts, note_missed
from lmcache_connect.errors import ConnectorClosedError, FrameError, OperationTimeoutError, StoreCommandError
from lmcache_connect.observability import event
from lmcache_connect.record import INDEX_BYTES, SpreadPlan, chunk_of_piece, piece_names
from lmcache_connect.streaming import Arrivals, ChunkBytes, DividedArrivals

from ..connector import RedisConnector, only_facts
from ..layouts.framed.second_look import look_again
from ..nodes.connector import NodesConnector, raise_first
from ..nodes.node import Node, seconds_for_a_share
from ..protocol.connection import Connection
from ..protocol.replies import encode_command
from ..topology.placement import Address
from ..topology.ring import Ring
from ..way import Way
from .options import RedisRingOptions
from .spread_chunk import SpreadPiece, names_by_server, placed_pieces
from .spread_facts import INDEX_MEMORY, with_pieces
from .spread_get import SpreadGet, receive_pieces
from .spread_indexes import read_index, read_plans, remove_names
from .spread_put import SpreadPut

SPREAD_FROM: Final = 8 << 20
"""Bytes of a chunk that is spread. A smaller one gains less than the second round trip of a get costs."""

_PIECE_SECONDS: Final = 60.0
"""How much longer than its index a piece lives, and how long without one."""

_TRIES: Final = 4
"""How often a spread chunk is asked for because it was replaced while it was being received."""

_REMOVING_SECONDS: Final = 1.0
"""How long a removal waits for the servers of pieces, which nobody finds any more."""

_INDEX_SECONDS: Final = 30.0
"""How long indexes, which are short, may take to be stored where the call has no deadline."""

_SECONDS_AT_END: Final = 0.5
"""How long closing waits for the indexes of puts that were cancelled, and for what others have left to be removed."""

Plan = tuple[str, SpreadPlan]
"""The name of a spread chunk, and what its pieces are."""


class RingConnector(NodesConnector):
    """Stores each chunk on one of several servers, and large ones on `options.spread` of them."""

    def __init__(self, context: ConnectorContext, options: RedisRingOptions, ring: Ring, scheme: str) -> None:
        """See `NodesConnector`."""
        lasts = _PIECE_SECONDS + (options.ttl or 0.0)
        self.part_options = options.model_copy(update={"ttl": lasts})
        super().__init__(context, options, ring, scheme)
        self._ring: Final = ring
        self._spread: Final = options.spread
        self._ttl_ms: Final = options.ttl_ms
        self._has_indexes: Final = options.layout == "connect"
        self._pieces_expire = True
        """Whether pieces are put with a time to live. Not where the servers do not let it be taken from them."""
        self._expects_indexes = False
        """Whether the last get of large chunks has brought spread ones."""
        self._background: Final[set[asyncio.Task[None]]] = set()

    # ------------------------------------------------------------------------------------------------------ gets

    async def receive(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        *,
        may_wait: bool = False,
        nbytes: int | None = None,
    ) -> None:
        if self._expects_indexes:
            nbytes = len(names) * INDEX_BYTES
        await super().receive(keys, names, arrivals, may_wait=may_wait, nbytes=nbytes)
        if not arrivals.is_plain:
            await self._receive_spread(keys, names, arrivals, may_wait)
        elif self._expects_indexes:
            self._expects_indexes = all(obj is None for obj in arrivals.found)

    async def _receive_spread(
        self, keys: Sequence[str], names: Sequence[str], arrivals: Arrivals, may_wait: bool
    ) -> None:
        get = SpreadGet(self._ring, arrivals)
        missing: dict[int, int] = {}
        while incomplete := await get.receive(names, self._receive_pieces):
            # Another put may have replaced the chunk, and removed the pieces of the one before it.
            for slot in incomplete:
                tries = missing[slot] = missing.get(slot, 0) + 1
                if tries == _TRIES:
                    arrivals.corrupt[slot] = FrameError("piece", "a piece of the spread chunk is missing")
                    continue
                again = Arrivals(1, arrivals.room.part([slot]))
                node = self.node(self._ring.address_of(names[slot]))
                one = [keys[slot]], [names[slot]]
                try:
                    await self._receive_share(node, *one, DividedArrivals(again), [0], INDEX_BYTES, may_wait, Way.PLAIN)
                except StoreError as error:  # what the other servers have brought is kept
                    get.failed(error.with_traceback(None))
                    self._tell_of("get", [node], [error])
                    note_missed(type(error).__name__)
                    continue
                arrivals.add(again, slot)
        self._expects_indexes = get.has_met
        raises = get.lasting is not None or self._context.settings.errors == "raise"
        if raises and (errors := get.failure()):
            raise_first(errors)

    async def _receive_pieces(self, groups: dict[Address, list[SpreadPiece]]) -> list[StoreError | None]:
        nodes = [self.node(address) for address in groups]
        calls = [partial(receive_pieces, node, pieces) for node, pieces in zip(nodes, groups.values(), strict=True)]
        _, failures = await self._outcomes(calls)
        self._tell_of("get", nodes, failures)
        return failures

    def _tell_of(self, operation: str, nodes: Sequence[Node], failures: Sequence[StoreError | None]) -> None:
        if self._context.settings.errors == "raise":
            return
        for node, error in zip(nodes, failures, strict=True):
            if error is not None:
                node.note_missed(operation, error)

    # ------------------------------------------------------------------------------------------------------ puts

    async def _send(
        self,
        operation: str,
        keys: Sequence[str],
        names: Sequence[str],
        objs: Sequence[ChunkBytes],
        *,
        is_repeatable: bool = True,
    ) -> Flags:
        large = [slot for slot, obj in enumerate(objs) if obj.get_size() >= SPREAD_FROM] if self._has_indexes else []
        if not large:
            return await super()._send(operation, keys, names, objs, is_repeatable=is_repeatable)
        send_whole = partial(super()._send, operation, is_repeatable=is_repeatable)
        if self._spread == 1:
            return await self._put_large(partial(send_whole, keys, names, objs), [names[slot] for slot in large])
        flags = [False] * len(names)
        chosen = {*large}
        whole = [slot for slot in range(len(names)) if slot not in chosen]

        async def put_whole() -> None:
            told = await send_whole(
                [keys[slot] for slot in whole], [names[slot] for slot in whole], [objs[slot] for slot in whole]
            )
            for slot, flag in zip(whole, told, strict=True):
                flags[slot] = flag

        async def put_spread() -> None:
            put = SpreadPut(self._ring, self.node, operation, is_repeatable)
            for slot in large:
                put.add(slot, names[slot], objs[slot], self._spread)
            await self._put_spread(put)
            for slot in put.done:
                flags[slot] = True

        calls: list[Callable[[], Awaitable[None]]] = [put_spread]
        if whole:
            calls.append(put_whole)
        _, failures = await self._outcomes(calls)
        errors = [error for error in failures if error is not None]
        lasting = [error for error in errors if error.permanent]
        if lasting or (errors and (len(errors) == len(calls) or self._context.settings.errors == "raise")):
            raise_first(lasting or errors, errors, failures)
        if errors:
            note_missed(type(errors[0]).__name__, len(large) if failures[0] is not None else len(whole))
        return flags

    async def _put_large(self, put: Callable[[], Awaitable[Flags]], large: Sequence[str]) -> Flags:
        """Awaits a put of whole chunks. Removes the pieces of those of the chunks `large` that were spread before."""
        replaced: dict[str, SpreadPlan] = {}
        flags: list[bool] = []

        async def look() -> None:  # its short question is answered before the chunks have been sent
            try:
                replaced.update(await self._plans_of(large))
            except StoreError:
                pass  # the put says what is wrong

        async def send() -> None:
            flags.extend(await put())

        _, failures = await self._outcomes([look, send])
        if errors := [error for error in failures if error is not None]:
            raise_first(errors, failures)
        if stored := {name: plan for name, plan in replaced.items() if all(flags)}:
            # Looked at again: the first look may have seen what another put has stored after this one.
            _ = self._in_background(self._free_unless_stored(stored))
        return flags

    async def _plans_of(self, names: Sequence[str], *, is_needed: bool = False) -> dict[str, SpreadPlan]:
        """Returns what the pieces of those chunks are that are spread. See `read_plans`."""
        plans: dict[str, SpreadPlan] = {}
        for address, slots in self._ring.place(names).items():
            some = [names[slot] for slot in slots]
            node = self.node(address)
            look = partial(read_plans, names=some, is_needed=is_needed)
            plans.update(await node.call("look", partial(node.connector.over_lookups, look)))
        return plans

    async def _put_spread(self, put: SpreadPut) -> None:
        """Puts spread chunks.

        Raises:
            StoreError: one is not stored, where that is not to be a miss, or none is.
        """
        is_kept = self._ttl_ms is None
        try:
            await put.send_pieces(self._side_by_side, expires=self._pieces_expire, is_kept=is_kept)
            if not put.are_kept:  # they are sent once more, since these expire
                if self._pieces_expire:
                    self._pieces_expire = False
                    event(logging.WARNING, "pieces_without_expiry", store=self._store)
                await put.send_pieces(self._side_by_side, expires=False, is_kept=False)
        except BaseException:
            self._free_soon([(chunk.name, chunk.plan) for chunk in put.chunks])
            raise
        # In a context of its own: the call may be cancelled meanwhile, and an index must not be half known.
        indexes = self._in_background(self._put_indexes(put, min(seconds_for_a_share(), _INDEX_SECONDS)))
        try:
            await asyncio.shield(indexes)
        except asyncio.CancelledError:
            if indexes.cancelled():  # by close(), and not the caller: whether it is stored nobody knows
                raise ConnectorClosedError(self._store) from None
            raise
        errors = put.failures()
        lasting = [error for error in errors if error.permanent]
        if lasting or (errors and (not put.done or self._context.settings.errors == "raise")):
            raise_first(lasting or errors, errors)
        if errors:
            note_missed(type(errors[0]).__name__, len(errors))

    async def _put_indexes(self, put: SpreadPut, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await put.send_indexes(self._side_by_side, self._ttl_ms)
        except TimeoutError as error:
            late = error if isinstance(error, StoreError) else OperationTimeoutError(self._store, "put", seconds)
            put.fail(late.with_traceback(None))
        self._free_soon([*put.replaced.items()])
        left = {chunk.name: chunk.plan for chunk in put.unfinished()}
        self._free_soon([(name, plan) for name, plan in left.items() if name not in put.sent])
        if unknown := {name: plan for name, plan in left.items() if name in put.sent}:
            _ = self._in_background(self._free_unless_stored(unknown))

    async def _free_unless_stored(self, plans: dict[str, SpreadPlan]) -> None:
        """Removes the pieces of plans that do not stand under their names any more."""

        async def look(name: str) -> None:
            stored = await self._plans_of([name], is_needed=True)
            if stored.get(name) != plans[name]:
                self._free_soon([(name, plans[name])])

        with anyio.move_on_after(_REMOVING_SECONDS):
            await self._outcomes([partial(look, name) for name in plans])

    def _in_background(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(job, context=Context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _side_by_side(self, calls: Sequence[Callable[[], Awaitable[object]]]) -> list[StoreError | None]:
        _, failures = await self._outcomes(calls)
        return failures

    # -------------------------------------------------------------------------------------------------- removals

    async def remove(self, key: Key) -> bool:
        """Removes the chunk from its server, and its pieces where it is spread. Returns whether it was there."""
        return (await self._remove(self.names_of([key_string(key)])))[0]

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes the chunks, as `remove` does. Returns for each whether it is gone now."""
        return await self._remove((await self._named(keys))[1], are_gone=True)

    async def _remove(self, names: Sequence[str], *, are_gone: bool = False) -> Flags:
        found: dict[str, SpreadPlan] = {}

        async def ask(connector: RedisConnector, some: Sequence[str], way: Way) -> Flags:
            if not self._has_indexes:
                flags = await connector.names_removed(some, way)
            else:
                command = connector.remove_command
                flags, plans = await connector.over_lookups(partial(remove_names, names=some, command=command))
                found.update(plans)
            return [True] * len(some) if are_gone else flags

        try:
            flags = await self._look_up("remove", names, ask)
        except BaseException:
            self._free_soon([*found.items()])
            raise
        if found:
            await self._remove_pieces([*found.items()])
        return flags

    async def _remove_pieces(self, plans: Sequence[Plan]) -> None:
        """Removes pieces, as far as their servers do so within a second. Nobody finds them any more."""
        groups = names_by_server(self._ring, plans)

        async def remove(address: Address, names: Sequence[str]) -> None:
            connector = self.node(address).connector
            await self.node(address).call("remove", lambda: connector.names_removed(names))

        with anyio.move_on_after(_REMOVING_SECONDS):
            await self._outcomes([partial(remove, address, names) for address, names in groups.items()])

    def _free_soon(self, plans: Sequence[Plan]) -> None:
        """Removes pieces in the background. No call waits for it."""
        for address, names in names_by_server(self._ring, plans).items():
            self.node(address).connector.free_soon(names)

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """See `RedisConnector.remove_damaged`. A spread chunk is removed where a piece is damaged or missing."""
        [name] = self.names_of([key_string(key)])
        node = self.node(self._ring.address_of(name))
        seen = None
        if self._has_indexes:
            look = partial(read_index, name=name)
            seen = await node.call("remove_damaged", lambda: node.connector.over_lookups(look))
        if seen is None:
            return await super().remove_damaged(key, error)
        plan, removal = seen
        if not await self._is_damaged(name, plan):
            return False

        async def use(connection: Connection) -> bool:
            return await node.connector.remove_seen(connection, removal)

        is_removed = await node.call("remove_damaged", lambda: node.connector.over_lookups(use))
        if is_removed:
            self._free_soon([(name, plan)])
        return is_removed

    async def _is_damaged(self, name: str, plan: SpreadPlan) -> bool:
        """Looks at the pieces of a chunk again, one after the other. Returns whether one is damaged or missing."""
        if plan.pieces > len(self._ring.addresses):
            return False

        async def look(connection: Connection, piece: str) -> bool:
            await connection.send(encode_command(b"EXISTS", piece.encode()))
            if not await connection.read_integer():
                return True
            return await look_again(connection, piece) is not None

        for address, piece in placed_pieces(self._ring, name, plan):
            node = self.node(address)
            attempt = partial(node.connector.over_lookups, partial(look, piece=piece))
            if await node.call("remove_damaged", attempt):
                return True
        return False

    # ----------------------------------------------------------------------------------------------------- facts

    async def names_described(self, names: Sequence[str], *, records: bool) -> FactSlots:
        found = await super().names_described(names, records=records)
        plans = await self._plans_among(names, found)
        pieces: dict[str, KeyFacts | None] = {}

        async def look(address: Address, some: Sequence[str]) -> None:
            node = self.node(address)
            ask = partial(node.connector.names_described, some, records=records)
            told = await node.call("describe", ask)
            pieces.update(zip(some, map(only_facts, told), strict=True))

        await self._on_pieces(plans, look)
        for at, name in enumerate(names):
            if (facts := found[at]) is not None and (plan := plans.get(name)) is not None:
                placed = [piece for _, piece in placed_pieces(self._ring, name, plan)]
                found[at] = with_pieces(facts, plan, placed, pieces)
        return found

    async def names_expired(self, names: Sequence[str], ttls: Sequence[float]) -> Flags:
        # The index first: a chunk without one is a miss, and one without its pieces would be damaged.
        plans = await self._plans_of(names, is_needed=True) if self._has_indexes else {}
        flags = await super().names_expired(names, ttls)
        times = dict(zip(names, ttls, strict=True))
        of_piece = {piece: times[name] for name, plan in plans.items() for piece in piece_names(name, plan)}

        async def expire(address: Address, some: Sequence[str]) -> None:
            node = self.node(address)
            seconds = [of_piece[piece] + _PIECE_SECONDS for piece in some]
            await node.call("expire", partial(node.connector.names_expired, some, seconds))

        await self._on_pieces(plans, expire)
        return flags

    async def _plans_among(self, names: Sequence[str], found: FactSlots) -> dict[str, SpreadPlan]:
        """Returns the plans of the spread chunks among those that were described."""
        if not self._has_indexes:
            return {}
        small = [
            name
            for name, facts in zip(names, found, strict=True)
            if facts is not None and (facts.stored_bytes or 0) <= INDEX_MEMORY
        ]
        return await self._plans_of(small) if small else {}

    async def _on_pieces(
        self, plans: Mapping[str, SpreadPlan], use: Callable[[Address, Sequence[str]], Awaitable[None]]
    ) -> None:
        """Awaits `use` for each server that has pieces of these chunks, with their names, side by side."""
        groups = names_by_server(self._ring, [*plans.items()])
        _, failures = await self._outcomes([partial(use, address, some) for address, some in groups.items()])
        if errors := [error for error in failures if error is not None]:
            raise_first(errors, failures)

    # -------------------------------------------------------------------------------------------------- listings

    async def scan_outdated(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields what release 0.1 has stored, and then pieces of spread chunks that no index names any more.

        Those are of puts that were replaced or removed while a server was away, or that are under way.
        """
        async for name in super().scan_outdated(prefix):
            yield name
        if not self._has_indexes:
            return
        for node in await self._all_nodes():
            async for page in node.connector.scan_pieces(prefix):
                for name in await self._orphans(page):
                    yield name

    async def _orphans(self, pieces: Sequence[str]) -> list[str]:
        """Returns those of some pieces that are not of the chunk that stands under its name now."""
        chunks = [*dict.fromkeys(chunk for piece in pieces if (chunk := chunk_of_piece(piece)) is not None)]
        try:
            plans = await self._plans_of(chunks, is_needed=True)
        except (AuthenticationError, StoreCommandError):
            return []  # of none is it known
        named = {piece for name, plan in plans.items() for piece in piece_names(name, plan)}
        return [piece for piece in pieces if piece not in named]

    async def diagnose(self, timeout: float) -> AsyncIterator[Finding]:
        """See `Diagnosable`. The servers are looked at side by side."""
        from ..diagnosis.ring import diagnose_ring

        servers = {address: self.make_server(self._url_of(address)) for address in self.placement.addresses}
        async for finding in diagnose_ring(servers, self._options, timeout):
            yield finding

    async def close(self) -> None:
        """Closes every connection to every server. Waits a moment for what is under way. Idempotent."""
        if tasks := {*self._background}:
            await asyncio.wait(tasks, timeout=_SECONDS_AT_END)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await super().close()
