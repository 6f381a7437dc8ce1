"""`ClusterConnector`: the connector of a Redis Cluster.

It is a `NodesConnector` whose servers are the primaries of the cluster, and whose placement is the map of the slots,
which changes. `ClusterCall` has what follows from that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from lmcache_connect import ConnectorContext, CorruptRecordError, Key, StoreUnavailableError, key_string
from lmcache_connect.contract import CircuitBreaker, Documents, Finding, OwnThreadCalls, gather, note_missed
from lmcache_connect.errors import CircuitOpenError, StoreProtocolError
from lmcache_connect.url import RemoteURL

from ..announcements import Announcements
from ..connector import RedisConnector
from ..nodes.connector import NodesConnector, Share, raise_first
from ..nodes.node import Node, is_late
from ..protocol.connection import Connection
from ..protocol.redirects import Redirect, RedirectedError
from ..topology.cluster import Cluster
from ..topology.cluster_node import ClusterNode
from ..topology.placement import Address
from ..topology.slot_map import SlotMap
from ..topology.slots import slot_of
from ..way import Way
from .call import OUTAGE, ClusterCall, Route, Unserved
from .options import RedisClusterOptions

T = TypeVar("T")

_FORGOTTEN: Final = 10.0
"""Seconds after which such a node is waited for again."""

_RETIRED_AFTER: Final = 30.0
"""Seconds after which a node is closed that the map does not name any more. No call goes on for so long."""

_UNKNOWN_NODES: Final = 64
"""How many nodes redirects may name that no map does."""

_TAGS: Final = ("workers-a", "workers-b", "workers-c")
"""What the slots of announcements are computed from. They lie in different thirds: 11,969, 7,842 and 3,715."""

_HOPS: Final = 4


class ClusterConnector(NodesConnector):
    """Stores each chunk on one node of a cluster. Connects to a node on the first call that concerns it."""

    follows = True

    def __init__(
        self, context: ConnectorContext, options: RedisClusterOptions, seeds: Sequence[Address], scheme: str
    ) -> None:
        """`seeds`: the hosts of the URL. `scheme`: that of one node's URL."""
        settings = context.settings
        self._cluster: Final = Cluster(
            context.remote_url.label(), seeds, self._open_connection, options.connect_timeout, self._renewed
        )
        super().__init__(context, options, self._cluster, scheme)
        self._reads_replicas: Final = options.replicas == "prefer"
        self._zone: Final = options.zone
        self._replicas: Final[dict[Address, Node]] = {}
        self._gone: Final[dict[Address, float]] = {}
        """Nodes that the map does not name any more, and since when."""
        self._closing: Final[set[asyncio.Task[None]]] = set()
        self._down: Final[dict[tuple[Address | None, bool], tuple[float, float]]] = {}
        """Nodes that say the cluster is down, for calls that read or for others: since when, and when they last did."""
        self._entry: Final = CircuitBreaker(settings.breaker_failures, settings.breaker_reset, time.monotonic)
        prefix = f"{options.prefix}:" if options.prefix else ""
        self._tagged: Final = {tag: Announcements(f"{prefix}{{{tag}}}") for tag in _TAGS}

    # ---------------------------------------------------------------------------------------------------- nodes

    def make_server(self, url: RemoteURL, *, is_replica: bool = False) -> ClusterNode:
        stall_timeout = self._context.settings.stall_timeout
        return ClusterNode(url, self._options, stall_timeout, self._credentials, is_replica=is_replica)

    def node_of(self, route: Route) -> Node:
        """Returns the node of an address, as it is to be asked. See `Nodes`.

        Raises:
            StoreProtocolError: redirects have named too many nodes that do not exist.
        """
        address, way = route
        if way is not Way.REPLICA:
            if address not in self._nodes and len(self._nodes) >= len(self._cluster.addresses) + _UNKNOWN_NODES:
                self._cluster.doubt()
                raise StoreProtocolError(self._store, "redirects name more nodes than the cluster has")
            return self.node(address)
        node = self._replicas.get(address)
        if node is None:
            node = self._replicas[address] = self.make_node(address, is_replica=True)
        node.rest.asked()
        return node

    def make_node(self, address: Address, *, is_replica: bool = False) -> Node:
        url = self._url_of(address)
        context = replace(self._context, remote_url=url)
        server = self.make_server(url, is_replica=is_replica)
        connector = RedisConnector(context, self._options, server, line=self._line, chunk_size=self._chunk_size)
        return Node(connector, url.label(), self._context.settings)

    def replica_of(self, slots: SlotMap, index: int, slot: int) -> Address | None:
        """Returns which replica of a shard is to be read for a slot. See `Nodes`.

        Nodes of the zone go first, and among equals replicas. Those that have failed a moment ago do not count.
        """
        if not self._reads_replicas:
            return None
        shard = slots.shards[index]
        usable = [replica for replica in shard.replicas if self._is_usable(replica.address)]
        if self._zone is not None:
            near = [replica for replica in usable if replica.zone == self._zone]
            if not near and shard.primary.zone == self._zone:
                return None
            usable = near or usable
        return usable[slot % len(usable)].address if usable else None

    def _is_usable(self, address: Address) -> bool:
        node = self._replicas.get(address)
        return node is None or node.rest.is_over

    def seconds_until_given_up(self, address: Address | None, *, reads: bool) -> float:
        """Returns for how many seconds a call may wait for a node. See `Nodes`."""
        now = time.monotonic()
        since, last = self._down.get((address, reads), (now, now))
        if now - last > _FORGOTTEN:
            since = now
        self._down[address, reads] = since, now
        return since + OUTAGE - now

    def served(self, route: Route, *, reads: bool) -> None:
        """Told that a node has answered a call. See `Nodes`."""
        address, way = route
        if way is Way.REPLICA:
            if (node := self._replicas.get(address)) is not None:  # otherwise it was retired meanwhile
                node.rest.answered()
        elif self._down:
            self._down.pop((address, reads), None)

    def _renewed(self, slots: SlotMap) -> None:
        """Told of each new map. Closes nodes that have not been in one for a while."""
        now = time.monotonic()
        if slots.is_whole:
            for reads in (False, True):
                self._down.pop((None, reads), None)
        primaries = {shard.primary.address for shard in slots.shards}
        replicas = {replica.address for shard in slots.shards for replica in shard.replicas}
        for address in {*self._nodes, *self._replicas}:
            if address in primaries or address in replicas:
                self._gone.pop(address, None)
            elif now - self._gone.setdefault(address, now) > _RETIRED_AFTER:
                del self._gone[address]
                for nodes in (self._nodes, self._replicas):
                    if (node := nodes.pop(address, None)) is not None:
                        self._retire(node)

    def _retire(self, node: Node) -> None:
        node.conditions.end()
        task = asyncio.get_running_loop().create_task(node.connector.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _open_connection(self, address: Address) -> Connection:
        return await self.make_server(self._url_of(address)).open_connection()

    async def _map(self) -> SlotMap:
        """Returns the map of the slots. Where nobody has answered, again and again, nobody is asked for a moment.

        Raises:
            CircuitOpenError: nobody was there to ask a moment ago. What asking raises.
        """
        if self._cluster.known is not None:
            return await self._cluster.map()
        admission = self._entry.admit(is_transfer=False)
        if admission is None:
            raise CircuitOpenError(self._store, self._entry.failures, self._entry.retry_in)
        verdict: bool | None = None
        try:
            slots = await self._cluster.map()
            verdict = True
        except StoreUnavailableError:
            verdict = False
            raise
        except asyncio.CancelledError:  # a call that is late was cancelled
            if is_late():
                verdict = False
            raise
        finally:
            if verdict is None:
                self._entry.abandoned(admission)
            elif verdict:
                self._entry.succeeded(admission)
            else:
                self._entry.failed(admission, is_transfer=False)
        return slots

    def _node_of_name(self, name: str) -> Node | None:
        slots = self._cluster.known
        address = None if slots is None else slots.primary_of(slot_of(name))
        return None if address is None else self._nodes.get(address)

    async def place(self, names: Sequence[str]) -> dict[Address, list[int]]:
        """Returns for each primary that has any of the names their positions.

        Raises:
            StoreUnavailableError: no node has the slot of one of them.
        """
        await self._map()
        return self._cluster.place(names)

    async def _all_nodes(self) -> list[Node]:
        slots = await self._map()
        return [self.node(shard.primary.address) for shard in slots.shards]

    # ------------------------------------------------------------------------------------------------- the keys

    def own_thread_calls(self) -> OwnThreadCalls | None:
        # A thread asks primaries alone.
        return None if self._reads_replicas else super().own_thread_calls()

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
        if not names:
            return
        await self._map()
        work = ClusterCall(self._cluster, self, names, call, reads=reads, repeats=repeats, unserved=unserved)
        await work.run()
        if work.failures:
            self._account_for(operation, work.failures, len(names))

    def _account_for(self, operation: str, failures: Sequence[Unserved], keys: int) -> None:
        """Raises what has failed a call, or counts its keys as misses, as the setting `errors` says."""
        errors = [failure.error for failure in failures]
        lasting = [error for error in errors if error.permanent]
        failed = sum(len(failure.positions) for failure in failures)
        if lasting or failed >= keys or self._context.settings.errors == "raise":
            raise_first(lasting or errors, errors)
        for failure in failures:
            if failure.node is not None:
                failure.node.note_missed(operation, failure.error)
            note_missed(type(failure.error).__name__, len(failure.positions))

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """See `RedisConnector.remove_damaged`. Asks the primary. One whose slot is moving is left alone."""
        [address] = await self.place(self.names_of([key_string(key)]))
        node = self.node(address)
        try:
            return await node.call("remove_damaged", lambda: node.connector.remove_damaged(key, error))
        except RedirectedError as said:
            self._cluster.learn(said, address)
            return False

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the keys that start with `prefix`, of one primary after the other.

        While a slot moves, a key of it may be yielded twice, or not at all.
        """
        for node in await self._all_nodes():
            async for key in node.connector.scan(prefix):
                yield key

    async def remove_outdated(self, names: Sequence[str]) -> int:
        """Removes what `scan_outdated` has named. Returns how many were there."""
        removed = 0
        for address, positions in (await self.place(names)).items():
            removed += await self.node(address).connector.remove_outdated([names[position] for position in positions])
        return removed

    # -------------------------------------------------------------------------------------------- announcements

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Stores a worker's document in each of three slots whose node answers.

        Raises:
            StoreError: none does.
        """
        await self._for_tags("announce", lambda tagged, connection: tagged.put(connection, worker, document, ttl))

    async def withdraw(self, worker: str) -> None:
        """Removes a worker's document from where a node answers. It expires elsewhere.

        Raises:
            StoreError: none does.
        """
        await self._for_tags("withdraw", lambda tagged, connection: tagged.remove(connection, worker))

    async def announced(self) -> Documents:
        """Returns the documents in the slots whose node answers, each once.

        Raises:
            StoreError: none does.
        """
        found = await self._for_tags("announced", lambda tagged, connection: tagged.read(connection))
        return [*dict.fromkeys(document for documents in found for document in documents)]

    async def _for_tags(self, operation: str, use: Callable[[Announcements, Connection], Awaitable[T]]) -> list[T]:
        """Awaits `use` for each slot of announcements, side by side. Returns what came of those that were answered."""

        return await self._answered([partial(self._for_tag, operation, tag, use) for tag in _TAGS])

    async def _for_tag(self, operation: str, tag: str, use: Callable[[Announcements, Connection], Awaitable[T]]) -> T:
        slot = slot_of(f"{{{tag}}}")
        hops = 0
        address = (await self._map()).primary_of(slot)
        while True:
            if address is None:
                raise StoreUnavailableError(self._store, "no node of the cluster has the slot of announcements")
            node = self.node_of((address, Way.PLAIN))
            attempt = partial(node.connector.over_lookups, partial(use, self._tagged[tag]))
            try:
                return await node.call(operation, attempt)
            except RedirectedError as said:
                hops += 1
                target = self._cluster.learn(said, address)
                if said.kind is not Redirect.MOVED or hops > _HOPS:
                    raise
                address = target

    async def diagnose(self, timeout: float) -> AsyncIterator[Finding]:
        """See `Diagnosable`. The nodes are looked at side by side."""
        from ..diagnosis.cluster import diagnose_cluster
        from ..diagnosis.demands import Demands

        def server_at(address: Address) -> ClusterNode:
            return self.make_server(self._url_of(address))

        async for finding in diagnose_cluster(self._cluster, server_at, Demands.of(self._options), timeout):
            yield finding

    async def close(self) -> None:
        """Closes every connection to every node. Idempotent."""
        await self._cluster.close()
        nodes = [*self._replicas.values()]
        for node in nodes:
            node.conditions.end()
        if nodes:
            await gather([node.connector.close for node in nodes], at_a_time=len(nodes))
        if self._closing:
            await asyncio.wait([*self._closing])
        await super().close()
