"""`NodesConnector`: the connector of several servers, each of which has a share of the keys.

It has one `RedisConnector` for each server, and groups the keys of a call by server (`Placement`). The servers are
asked side by side: a batch costs one round trip to each of them. A call has one line for room and one room, so that the
rules of `streaming` hold for it as for a call to one server.

A server that does not answer costs its own keys. With `errors=miss` those are misses, and the rest of the call is
answered. With `errors=raise` the call fails when all others have ended: what they have stored or received stands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from lmcache_connect import ConnectorContext, CorruptRecordError, Key, StoreError, key_string
from lmcache_connect.contract import Documents, Flags, OwnThreadCalls, gather, note_missed
from lmcache_connect.errors import StoreUnavailableError, UnsupportedOperationError
from lmcache_connect.streaming import Arrivals, ArrivalsShare, ChunkBytes, DividedArrivals, StreamingConnector
from lmcache_connect.url import HostPort, RemoteURL

from .connector import RedisConnector, layout_of
from .node import Node, NodeState
from .nodes_own_thread import NodesOwnThread
from .options import RedisOptions
from .protocol.connection import Connection, lost_connection
from .protocol.redirects import RedirectedError, RedirectionsError, damaged_copy
from .topology.credential_sources import credentials_of
from .topology.placement import Address, Placement
from .topology.single import SingleServer
from .way import Way

T = TypeVar("T")

Names = list[str]

Share = Callable[[Node, list[int], Way], Awaitable[object]]
"""Asks a server, in some way, for its share of a call: the keys at these positions."""


class NodesConnector(StreamingConnector[Connection]):
    """Stores each chunk on one of several servers. Connects to a server on the first call that concerns it."""

    repeats_itself = True
    judges_itself = True

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
        self._is_closed = False
        self._own_thread: Final = NodesOwnThread(self._node_of_name, self.names_of)

    # ---------------------------------------------------------------------------------------------------- nodes

    def states(self) -> list[NodeState]:
        """What is known of each server, in the order of their addresses."""
        return [self.node(address).state for address in sorted(self.placement.addresses)]

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
            context, self._options, self.make_server(url), line=self._line, chunk_size=self._chunk_size
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
            return self._receive_share(node, keys, names, divided, slots, each, may_wait, way)

        def unserved(slots: Sequence[int]) -> list[int]:
            known = (arrivals.corrupt, arrivals.too_large)
            return [
                slot
                for slot in slots
                if slot < arrivals.wanted
                and arrivals.found[slot] is None
                and not any(slot in errors for errors in known)
            ]

        await self._serve("get", names, call, reads=True, unserved=unserved)

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
        left = slots

        async def attempt() -> bool:
            nonlocal left
            asked = left
            share: ArrivalsShare = divided.share(asked)
            damaged: dict[int, RedirectedError] = {}
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
                raise redirections.at(asked) from None
            finally:
                if way is Way.REPLICA:
                    damaged = {asked[at]: damaged_copy(node.store, error) for at, error in share.corrupt.items()}
                    share.corrupt.clear()
                left = divided.take(share)
            if damaged:
                raise RedirectionsError(node.store, damaged)
            return len(left) < len(asked)

        return await node.call("get", attempt, is_transfer=True, waits=may_wait)

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

            await node.call(operation, attempt, is_transfer=True, is_repeatable=is_repeatable)
            return [True] * len(slots)

        return await self._flags(operation, names, call, repeats=is_repeatable)

    # ------------------------------------------------------------------------------------------------- look-ups

    async def ping(self) -> int:
        """Returns 0 when every server answers. Asks them side by side.

        Raises:
            StoreError: one does not. Where several do not, the message names all of them.
        """

        async def call(node: Node) -> int:
            return await node.call("ping", node.connector.ping, is_probe=True)

        nodes = await self._all_nodes()
        _, failures = await self._outcomes([partial(call, node) for node in nodes])
        errors = [error for error in failures if error is not None]
        if not errors:
            return 0
        if len(errors) == 1 and len(nodes) > 1 and errors[0].permanent:
            raise errors[0]
        told = "; ".join(str(error) for error in errors)
        raise StoreUnavailableError(self._store, f"{len(nodes) - len(errors)} of {len(nodes)} servers answer: {told}")

    async def exists(self, key: Key) -> bool:
        """Returns whether the key's server holds the chunk."""
        return (await self.batched_exists((key,)))[0]

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for each key whether its server holds the chunk. One round trip to each server."""

        def call(node: Node, slots: list[int], way: Way) -> Awaitable[Flags]:
            share = [keys[slot] for slot in slots]
            return node.call("exists", lambda: node.connector.batched_exists(share, way=way))

        return await self._flags("exists", (await self._named(keys))[1], call, reads=True)

    async def remove(self, key: Key) -> bool:
        """Removes the chunk from its server. Returns whether it was there."""

        def call(node: Node, slots: list[int], way: Way) -> Awaitable[Flags]:
            async def attempt() -> Flags:
                return [await node.connector.remove(key, way=way)]

            return node.call("remove", attempt)

        return (await self._flags("remove", self.names_of([key_string(key)]), call))[0]

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes the chunks. Returns for each whether it is gone now. One round trip to each server."""

        def call(node: Node, slots: list[int], way: Way) -> Awaitable[Flags]:
            share = [keys[slot] for slot in slots]
            return node.call("remove", lambda: node.connector.batched_remove(share, way=way))

        return await self._flags("remove", (await self._named(keys))[1], call)

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
            What one of them raised that is no `StoreError`. The others were cancelled then, and have ended.
        """
        if len(groups) == 1:
            [(address, slots)] = groups.items()
            await call(self.node(address), slots, Way.PLAIN)
            return
        parts = [(self.node(address), slots) for address, slots in groups.items()]
        _, failures = await self._outcomes([partial(call, node, slots, Way.PLAIN) for node, slots in parts])
        errors = [error for error in failures if error is not None]
        if not errors:
            for node, _ in parts:
                if not node.conditions.is_clear:
                    node.conditions.succeeded(operation)
            return
        lasting = [error for error in errors if error.permanent]
        if lasting or len(errors) == len(parts) or self._context.settings.errors == "raise":
            raise_first(lasting or errors)
        for (node, slots), error in zip(parts, failures, strict=True):
            if error is None:
                if not node.conditions.is_clear:
                    node.conditions.succeeded(operation)
                continue
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
            raise_first([error for error in failures if error is not None])
        return [result for result, error in zip(results, failures, strict=True) if error is None]

    async def _outcomes(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> tuple[list[T], list[StoreError | None]]:
        """Awaits calls side by side. Returns their results, and the errors of those that the store has failed."""
        failures: list[StoreError | None] = [None] * len(calls)

        async def run(index: int) -> T:
            try:
                return await calls[index]()
            except StoreError as error:
                failures[index] = error.with_traceback(None)  # whose frames may hold views of buffers
                return None  # type: ignore[return-value]  # whoever looks at the failures does not look at it

        results = await gather([partial(run, index) for index in range(len(calls))], at_a_time=max(len(calls), 1))
        return results, failures

    async def close(self) -> None:
        """Closes every connection to every server. Idempotent."""
        nodes = [*self._nodes.values()]
        for node in nodes:
            node.conditions.end()
        if nodes:
            await gather([node.connector.close for node in nodes], at_a_time=len(nodes))
        await super().close()
        self._credentials.close()


def raise_first(errors: list[StoreError]) -> None:
    """Raises an error, and forgets it: one that its own traceback holds is freed late."""
    error = errors[0]
    errors.clear()
    try:
        raise error
    finally:
        del error
