"""`NodesConnector`: the connector of several servers, each of which has a share of the keys.

It has one `RedisConnector` for each server, and groups the keys of a call by server (`Placement`). The servers are
asked side by side: a batch costs one round trip to each of them. A call has one line for room and one room, so that the
rules of `streaming` hold for it as for a call to one server.

A server that does not answer costs its own keys. With `errors=miss` those are misses, and the rest of the call is
answered. With `errors=raise` the call fails when all others have ended: what they have stored or received stands.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final, NoReturn, TypeVar

import anyio

from lmcache_connect import ConnectorContext, CorruptRecordError, Key, StoreError, key_string
from lmcache_connect.contract import (
    BreakerState,
    Documents,
    FactSlots,
    Flags,
    OwnThreadCalls,
    ServerFacts,
    ServerState,
    note_missed,
)
from lmcache_connect.errors import OperationTimeoutError, StoreUnavailableError, UnsupportedOperationError
from lmcache_connect.streaming import Arrivals, ChunkBytes, DividedArrivals, StreamingConnector
from lmcache_connect.url import HostPort, RemoteURL

from ..connector import RedisConnector, layout_of
from ..credentials.sources import credentials_of
from ..options import RedisOptions
from ..protocol.connection import Connection, lost_connection
from ..protocol.redirects import RedirectedError, RedirectionsError, damaged_copy
from ..topology.placement import Address, Placement
from ..topology.single import SingleServer
from ..way import Way
from .grace_period import GracePeriod
from .node import Node, seconds_for_a_share
from .own_thread import NodesOwnThread

T = TypeVar("T")

Names = list[str]

_PING_GRACE: Final = 0.5
"""How much later than the first a server may answer a ping, in seconds."""

_FACTS_SECONDS: Final = 0.5
"""Seconds that a server has to tell of itself."""

Share = Callable[[Node, list[int], Way], Awaitable[object]]
"""Asks a server, in some way, for its share of a call: the keys at these positions."""


class NodesConnector(StreamingConnector[Connection]):
    """Stores each chunk on one of several servers. Connects to a server on the first call that concerns it."""

    repeats_itself = True
    judges_itself = True
    follows: ClassVar[bool] = False
    """Whether a call goes on elsewhere with keys that a server has not served."""
    part_options: RedisOptions | None = None
    """How pieces of spread chunks are put. None: there are none."""

    def __init__(self, context: ConnectorContext, options: RedisOptions, placement: Placement, scheme: str) -> None:
        """`scheme`: that of one server's URL, `redis` or `rediss`, by which a server is named and connected to.

        Raises:
            InvalidOptionError: the options name no readable credentials.
        """
        super().__init__(
            context,
            pool_size=1,
            lookup_pool_size=1,
            connect_timeout=options.connect_timeout,
            io=options.io,
            lost=lost_connection,
        )
        self.placement: Final = placement
        self._context: Final = context
        self._options: Final = options
        self._scheme: Final = scheme
        # Of all servers: what they share is asked for once.
        self._credentials: Final = credentials_of(context.remote_url, options, context.settings, context.lane)
        self._layout: Final = layout_of(self._store, options)
        self._nodes: Final[dict[Address, Node]] = {}
        self._own_thread: Final = NodesOwnThread(self._node_of_name, self.names_of)

    # ---------------------------------------------------------------------------------------------------- nodes

    def servers(self) -> Sequence[ServerState]:
        """What is known of each server, in the order of their addresses. From any thread."""
        return [self._state_of(address) for address in sorted(self.placement.addresses)]

    def _state_of(self, address: Address) -> ServerState:
        node = self._nodes.get(address)
        return ServerState(self._url_of(address).label(), BreakerState.CLOSED) if node is None else node.state

    def node(self, address: Address) -> Node:
        """The server at an address."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self.make_node(address)
        return node

    def make_node(self, address: Address) -> Node:
        """A new `Node` for an address, without a connection."""
        url = self._url_of(address)
        context = replace(self._context, remote_url=url)
        connector = RedisConnector(
            context,
            self._options,
            self.make_server(url),
            line=self._line,
            chunk_size=self._chunk_size,
            part_options=self.part_options,
        )
        return Node(connector, url.label(), self._context.settings)

    def make_server(self, url: RemoteURL) -> SingleServer:
        """What opens connections to the server of a URL."""
        return SingleServer(url, self._options, self._context.settings.stall_timeout, self._credentials)

    def _url_of(self, address: Address) -> RemoteURL:
        host, port = address
        changes = {"scheme": self._scheme, "hosts": (HostPort(host=host, port=port),), "path": ""}
        return self._context.remote_url.model_copy(update=changes)

    def _node_of_name(self, name: str) -> Node | None:
        """The node that has a name, where it was used before. From any thread."""
        return self._nodes.get(self.placement.address_of(name))

    async def place(self, names: Sequence[str]) -> dict[Address, list[int]]:
        """Returns for each server that has any of the names their positions, in ascending order."""
        return self.placement.place(names)

    async def _all_nodes(self) -> list[Node]:
        return [self.node(address) for address in self.placement.addresses]

    async def bytes_free(self) -> int | None:
        """See `TellsRoom`. Keys lie on all servers alike, so the fullest of them decides."""
        nodes = await self._all_nodes()
        told = [await node.connector.bytes_free() for node in nodes]
        known = [free for free in told if free is not None]
        return min(known) * len(nodes) if known else None

    # ------------------------------------------------------------------------------------- hooks of the base class

    async def dial(self) -> Connection:
        """Raises: connections are opened by the connectors of the servers."""
        raise UnsupportedOperationError(type(self).__name__, "dial")

    def names_of(self, keys: Sequence[str]) -> Names:
        return self._layout.names_of(keys)

    def own_thread_calls(self) -> OwnThreadCalls | None:
        return self._own_thread

    async def receive(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        *,
        may_wait: bool = False,
        nbytes: int | None = None,
    ) -> None:
        each = self._chunk_size.expected if nbytes is None else nbytes // max(len(names), 1)
        divided = DividedArrivals(arrivals)

        def call(node: Node, slots: list[int], way: Way) -> Awaitable[bool]:
            if len(slots) == len(names) and way is Way.PLAIN:
                return self._receive_all(node, keys, names, arrivals, divided, each, may_wait)
            return self._receive_share(node, keys, names, divided, slots, each, may_wait, way)

        await self._serve("get", names, call, reads=True, unserved=divided.unknown)

    async def _receive_all(
        self,
        node: Node,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        divided: DividedArrivals,
        each: int,
        may_wait: bool,
    ) -> bool:
        """Receives chunks that are all on one server."""
        left: list[int] | None = None

        async def attempt() -> bool:
            nonlocal left
            if left is not None:
                return await self._receive_slots(node, keys, names, divided, left, each, may_wait, Way.PLAIN)
            made = arrivals.room.made
            try:
                await node.connector.receive(keys, names, arrivals, may_wait=may_wait, nbytes=each * len(names))
            except BaseException:  # also where the share of the time is over
                arrivals.room.release_since(made, arrivals.found)
                left = divided.unknown(range(len(names)))
                raise
            return any(chunk is not None for chunk in arrivals.found)

        return await node.call("get", attempt, is_transfer=True, is_alone=not self.follows, waits=may_wait)

    async def _receive_share(
        self,
        node: Node,
        keys: Sequence[str],
        names: Sequence[str],
        divided: DividedArrivals,
        slots: list[int],
        each: int,
        may_wait: bool,
        way: Way,
    ) -> bool:
        """Receives chunks that are on one of several servers which are asked."""
        left = [*slots]

        async def attempt() -> bool:
            return await self._receive_slots(node, keys, names, divided, left, each, may_wait, way)

        is_replica = way is Way.REPLICA and not may_wait  # room may take all of the time
        return await node.call("get", attempt, is_transfer=True, is_replica=is_replica, waits=may_wait)

    async def _receive_slots(
        self,
        node: Node,
        keys: Sequence[str],
        names: Sequence[str],
        divided: DividedArrivals,
        left: list[int],
        each: int,
        may_wait: bool,
        way: Way,
    ) -> bool:
        """Receives chunks into the slots of `left`, and leaves there those of which nothing is known afterwards."""
        if not left:
            return True  # all had come before the last attempt failed
        asked = [*left]
        share = divided.share(asked)
        damaged: dict[int, RedirectedError] = {}
        redirected: dict[int, RedirectedError] = {}
        try:
            await node.connector.receive(
                [keys[slot] for slot in asked],
                [names[slot] for slot in asked],
                share,
                may_wait=may_wait,
                nbytes=each * len(asked),
                way=way,
            )
        except RedirectionsError as redirections:
            redirected = redirections.at(asked).by_slot
        finally:
            if way is Way.REPLICA and not share.is_plain:
                damaged = {asked[at]: damaged_copy(node.store, error) for at, error in share.corrupt.items()}
                share.corrupt.clear()
            left[:] = divided.take(share)
        if damaged or redirected:
            raise RedirectionsError(node.store, {**damaged, **redirected})
        return any(chunk is not None for chunk in share.found)

    async def _fill_up(self, texts: Sequence[str], names: Sequence[str], arrivals: Arrivals) -> None:
        seconds = seconds_for_a_share()
        timer = asyncio.timeout(None if math.isinf(seconds) else seconds)
        try:
            async with timer:
                await super()._fill_up(texts, names, arrivals)
        except (StoreError, TimeoutError) as error:  # of one chunk's server: what the others have brought is kept
            if isinstance(error, StoreError):
                failure = error
            elif timer.expired():
                failure = OperationTimeoutError(self._store, "get", seconds)
            else:
                raise
            if self._context.settings.errors == "raise" or failure.permanent:
                raise failure from None
            note_missed(type(failure).__name__)

    async def send(self, keys: Sequence[str], names: Sequence[str], objs: Sequence[ChunkBytes]) -> None:
        await self._send("put", keys, names, objs)

    async def send_once(self, keys: Sequence[str], names: Sequence[str], objs: Sequence[ChunkBytes]) -> Flags:
        return await self._send("put_from", keys, names, objs, is_repeatable=False)

    async def _send(
        self,
        operation: str,
        keys: Sequence[str],
        names: Sequence[str],
        objs: Sequence[ChunkBytes],
        *,
        is_repeatable: bool = True,
    ) -> Flags:
        async def call(node: Node, slots: list[int], way: Way) -> list[bool]:
            async def attempt() -> bool:
                await node.connector.send(
                    [keys[slot] for slot in slots],
                    [names[slot] for slot in slots],
                    [objs[slot] for slot in slots],
                    way=way,
                )
                return True

            is_alone = self._is_alone(slots, names)
            await node.call(operation, attempt, is_transfer=True, is_repeatable=is_repeatable, is_alone=is_alone)
            return [True] * len(slots)

        return await self._flags(operation, names, call, repeats=is_repeatable)

    # ------------------------------------------------------------------------------------------------- look-ups

    async def ping(self) -> int:
        """Returns 0 when a server answers. Asks all of them side by side. `servers` says which do not.

        Half a second after the first answer, the others count as late. So one that stands still does not keep those
        who watch over the store from their answer.

        Raises:
            StoreError: none does. The message names all of them.
        """

        grace = GracePeriod(_PING_GRACE)

        async def call(node: Node) -> int:
            found = await node.call("ping", node.connector.ping, is_probe=True, grace=grace)
            grace.one_has_answered()
            return found

        _, failures = await self._outcomes([partial(call, node) for node in await self._all_nodes()])
        errors = [error for error in failures if error is not None]
        if len(errors) < len(failures):
            return 0
        if len(errors) == 1 or errors[0].permanent:
            raise_first(errors, failures)
        told = "; ".join(map(str, errors))
        raise StoreUnavailableError(self._store, f"none of {len(errors)} servers answers: {told}")

    async def exists(self, key: Key) -> bool:
        """Returns whether the key's server holds the chunk."""
        return (await self._look_up("exists", self.names_of([key_string(key)]), _held, reads=True))[0]

    async def server_facts(self) -> Sequence[ServerFacts]:
        """What the servers tell that have not failed, and answer within half a second."""

        async def call(node: Node) -> Sequence[ServerFacts]:
            if node.breaker.state is not BreakerState.CLOSED:
                return ()
            found: Sequence[ServerFacts] = ()
            with anyio.move_on_after(_FACTS_SECONDS):
                found = await node.connector.server_facts()
            return found

        found, _ = await self._outcomes([partial(call, node) for node in await self._all_nodes()])
        return [facts for each in found if each is not None for facts in each]

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for each key whether its server holds the chunk. One round trip to each server."""
        return await self._look_up("exists", (await self._named(keys))[1], _held, reads=True)

    async def remove(self, key: Key) -> bool:
        """Removes the chunk from its server. Returns whether it was there."""
        return (await self._look_up("remove", self.names_of([key_string(key)]), _removed))[0]

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes the chunks. Returns for each whether it is gone now. One round trip to each server."""
        return await self._look_up("remove", (await self._named(keys))[1], _gone)

    async def _look_up(
        self,
        operation: str,
        names: Sequence[str],
        ask: Callable[[RedisConnector, Sequence[str], Way], Awaitable[Flags]],
        *,
        reads: bool = False,
    ) -> Flags:
        def call(node: Node, slots: list[int], way: Way) -> Awaitable[Flags]:
            share = [names[slot] for slot in slots]
            attempt = partial(ask, node.connector, share, way)
            is_alone = self._is_alone(slots, names)
            return node.call(operation, attempt, is_alone=is_alone, is_replica=way is Way.REPLICA)

        return await self._flags(operation, names, call, reads=reads)

    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """What the keys' servers say of their chunks. See `RemoteConnector`."""
        return await self.names_described((await self._named(keys))[1], records=records)

    async def names_described(self, names: Sequence[str], *, records: bool) -> FactSlots:
        """`describe` for the names of chunks.

        Raises:
            StoreError: a server has not answered for some of them, whatever the setting `errors` says.
        """

        def ask(node: Node, share: Sequence[str], slots: list[int], way: Way) -> Awaitable[Sequence[object]]:
            return node.connector.names_described(share, records=records, way=way)

        return await self._answers("describe", names, ask)

    async def expire(self, keys: Sequence[Key], ttls: Sequence[float]) -> Flags:
        """Sets the time to live of chunks. See `RemoteConnector`."""
        return await self.names_expired((await self._named(keys))[1], ttls)

    async def names_expired(self, names: Sequence[str], ttls: Sequence[float]) -> Flags:
        """`expire` for the names of chunks. Raises what `names_described` raises."""

        def ask(node: Node, share: Sequence[str], slots: list[int], way: Way) -> Awaitable[Sequence[object]]:
            return node.connector.names_expired(share, [ttls[slot] for slot in slots], way)

        return await self._answers("expire", names, ask)

    async def _answers(
        self,
        operation: str,
        names: Sequence[str],
        ask: Callable[[Node, Sequence[str], list[int], Way], Awaitable[Sequence[object]]],
    ) -> list[Any]:
        """Returns what `ask` returns for the names of each server, in the order of `names`."""
        found: dict[int, object] = {}

        async def call(node: Node, slots: list[int], way: Way) -> None:
            share = [names[slot] for slot in slots]
            attempt = partial(ask, node, share, slots, way)
            told = await node.call(operation, attempt, is_alone=self._is_alone(slots, names))
            elsewhere: dict[int, RedirectedError] = {}
            for slot, answer in zip(slots, told, strict=True):
                if isinstance(answer, RedirectedError):
                    elsewhere[slot] = answer
                else:
                    found[slot] = answer
            if elsewhere:
                raise RedirectionsError(node.store, elsewhere)

        await self._serve(operation, names, call, unserved=lambda slots: [at for at in slots if at not in found])
        if len(found) < len(names):
            lost = len(names) - len(found)
            raise StoreUnavailableError(self._store, f"no server has answered for {lost} of {len(names)} keys")
        return [found[slot] for slot in range(len(names))]

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """See `RedisConnector.remove_damaged`. Asks the key's server."""
        [address] = await self.place(self.names_of([key_string(key)]))
        node = self.node(address)
        return await node.call("remove_damaged", lambda: node.connector.remove_damaged(key, error))

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the keys that start with `prefix`, of one server after the other.

        A key is yielded where it is looked for. What lies on another server is left out: see `docs/ring.md`.
        """
        for node in await self._all_nodes():
            node.check_breaker()
            async for key in node.connector.scan(prefix):
                [address] = await self.place(self.names_of([key]))
                if self._nodes.get(address) is node:
                    yield key

    async def scan_outdated(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the names of what release 0.1 stored, of one server after the other."""
        for node in await self._all_nodes():
            async for name in node.connector.scan_outdated(prefix):
                yield name

    async def remove_outdated(self, names: Sequence[str]) -> int:
        """Removes what `scan_outdated` has named, from every server. Returns how many were there."""
        return sum([await node.connector.remove_outdated(names) for node in await self._all_nodes()])

    # -------------------------------------------------------------------------------------------- announcements

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Stores a worker's document on every server that answers.

        Raises:
            StoreError: none does.
        """

        async def call(node: Node) -> None:
            await node.call("announce", lambda: node.connector.announce(worker, document, ttl))

        await self._on_any(call)

    async def withdraw(self, worker: str) -> None:
        """Removes a worker's document from every server that answers. The others forget it when it expires.

        Raises:
            StoreError: none does.
        """

        async def call(node: Node) -> None:
            await node.call("withdraw", lambda: node.connector.withdraw(worker))

        await self._on_any(call)

    async def announced(self) -> Documents:
        """Returns the documents on the servers that answer, each once.

        Raises:
            StoreError: none does.
        """

        async def call(node: Node) -> Documents:
            return await node.call("announced", node.connector.announced)

        found = await self._on_any(call)
        return [*dict.fromkeys(document for documents in found for document in documents)]

    # ---------------------------------------------------------------------------------------------------- inside

    async def _flags(
        self,
        operation: str,
        names: Sequence[str],
        call: Callable[[Node, list[int], Way], Awaitable[Flags]],
        *,
        reads: bool = False,
        repeats: bool = True,
    ) -> Flags:
        """Returns what `call` returns for the keys of each server, in the order of `names`. False: it has failed."""
        flags = [False] * len(names)

        async def keep(node: Node, slots: list[int], way: Way) -> None:
            try:
                told = await call(node, slots, way)
            except RedirectionsError as redirections:
                for at, flag in redirections.flags.items():
                    flags[slots[at]] = flag
                raise redirections.at(slots) from None
            for slot, flag in zip(slots, told, strict=True):
                flags[slot] = flag

        await self._serve(operation, names, keep, reads=reads, repeats=repeats)
        return flags

    async def _serve(
        self,
        operation: str,
        names: Sequence[str],
        call: Share,
        *,
        reads: bool = False,
        repeats: bool = True,
        unserved: Callable[[Sequence[int]], list[int]] | None = None,
    ) -> None:
        """Awaits `call` for the keys of each server, side by side. Raises what `_by_node` raises.

        `reads`: replicas may be asked as well. `repeats`: what has failed may be asked for again. `unserved` returns
        those of some positions for which nothing has come yet; None: all of them.
        """
        await self._by_node(operation, await self.place(names), call)

    async def _by_node(self, operation: str, groups: dict[Address, list[int]], call: Share) -> None:
        """Awaits `call` for every group, side by side, each to its end.

        Raises:
            StoreError: what one of them raised, where that is not to be a miss, or where all of them have failed.
            What one of them raised that is not a `StoreError`. The others were cancelled then, and have ended.
        """
        if len(groups) == 1:
            [(address, slots)] = groups.items()
            await call(self.node(address), slots, Way.PLAIN)
            return
        parts = [(self.node(address), slots) for address, slots in groups.items()]
        _, failures = await self._outcomes([partial(call, node, slots, Way.PLAIN) for node, slots in parts])
        errors = [error for error in failures if error is not None]
        if not errors:
            return
        lasting = [error for error in errors if error.permanent]
        if lasting or len(errors) == len(parts) or self._context.settings.errors == "raise":
            raise_first(lasting or errors, errors, failures)
        for (node, slots), error in zip(parts, failures, strict=True):
            if error is not None:
                node.note_missed(operation, error)
                note_missed(type(error).__name__, len(slots))

    async def _on_any(self, call: Callable[[Node], Awaitable[T]]) -> list[T]:
        """Awaits `call` for every server, side by side. Returns the results of those that have answered."""
        return await self._answered([partial(call, node) for node in await self._all_nodes()])

    async def _answered(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """Awaits calls side by side. Returns the results of those that were answered.

        Raises:
            StoreError: none was.
        """
        results, failures = await self._outcomes(calls)
        if all(error is not None for error in failures):
            raise_first(failures)
        return [result for result, error in zip(results, failures, strict=True) if error is None]

    async def _outcomes(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> tuple[list[T], list[StoreError | None]]:
        """Awaits calls side by side, each to its end. Returns their results, and the errors of the store.

        Raises:
            What one of them raised that is not a `StoreError`. The others were cancelled then, and have ended.
        """
        results: list[Any] = [None] * len(calls)
        failures: list[StoreError | None] = [None] * len(calls)
        others: list[Exception] = []
        tasks: list[asyncio.Task[None]] = []

        async def run(index: int) -> None:
            # Nothing is raised into the group, where it would swallow a cancellation of the caller's task. Tracebacks
            # are cut off, since their frames may hold views of buffers.
            try:
                results[index] = await calls[index]()
            except StoreError as error:
                failures[index] = error.with_traceback(None)
            except Exception as error:
                others.append(error.with_traceback(None))
                for task in tasks:
                    if not task.done() and task is not asyncio.current_task():
                        task.cancel()

        async with asyncio.TaskGroup() as group:
            for index in range(len(calls)):
                if others:  # of a task that was begun at once
                    break
                tasks.append(group.create_task(run(index)))
        if others:
            raise_first(others)
        return results, failures

    def _is_alone(self, slots: Sequence[int], names: Sequence[str]) -> bool:
        """Whether a call about `names` asks no other server than that of `slots`, now or later."""
        return len(slots) == len(names) and not self.follows

    async def close(self) -> None:
        """Closes every connection to every server. Idempotent."""
        nodes = [*self._nodes.values()]
        for node in nodes:
            node.conditions.end()
        if nodes:
            await self._outcomes([node.connector.close for node in nodes])
        await super().close()
        self._credentials.close()


def _held(connector: RedisConnector, names: Sequence[str], way: Way) -> Awaitable[Flags]:
    return connector.names_held(names, way)


def _removed(connector: RedisConnector, names: Sequence[str], way: Way) -> Awaitable[Flags]:
    return connector.names_removed(names, way)


async def _gone(connector: RedisConnector, names: Sequence[str], way: Way) -> Flags:
    try:
        await connector.names_removed(names, way)
    except RedirectionsError as redirections:
        redirections.flags = dict.fromkeys(redirections.flags, True)
        raise
    return [True] * len(names)


def raise_first(*errors: list[Any]) -> NoReturn:
    """Raises the first error, and empties the lists: an error that its own traceback holds is freed late."""
    error = errors[0][0]
    for each in errors:
        each.clear()
    try:
        raise error
    finally:
        del error
