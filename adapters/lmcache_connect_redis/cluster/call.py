"""`ClusterCall`: one call over the nodes of a cluster, and what becomes of the keys that a node does not serve.

The keys are grouped by node, and the nodes asked side by side. What a node does not serve goes on by itself, while the
rest of the call is answered:

* MOVED: the node that it names is asked, which has the slot from now on.
* ASK: the node that it names is asked, for these keys alone.
* TRYAGAIN: the chunk is put whole, at the same node. So is one of whose pieces ASK was said: the target of a slot that
  is moving runs no transaction, and where the pieces may go says nothing about the chunk that they would replace.
* CLUSTERDOWN, and slots that nobody has: asked again after a pause, for a while.
* A replica that fails, or whose copy is damaged: its primary is asked.
* A node that does not answer: asked again where another one has taken its slots meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from lmcache_connect import StoreError, StoreUnavailableError
from lmcache_connect.contract import gather
from lmcache_connect.errors import CircuitOpenError, OperationTimeoutError, ValueTooLargeError

from ..nodes.node import Node, seconds_for_a_share
from ..protocol.redirects import Redirect, RedirectedError, RedirectionsError
from ..topology.cluster import Cluster
from ..topology.placement import Address
from ..topology.slot_map import NOWHERE, SlotMap
from ..topology.slots import slots_of
from ..way import Way

Share = Callable[[Node, list[int], Way], Awaitable[object]]
Route = tuple[Address, Way]
Routes = dict[Route, list[int]]

_HOPS: Final = 6
"""How often a key may be sent elsewhere. Two are usual: a stale map, and a slot that is moving."""

_PAUSE: Final = 0.02
"""Seconds before a key goes on that was sent elsewhere twice, and before one is asked for again that nobody serves."""

_LONGEST_PAUSE: Final = 0.4

OUTAGE: Final = 2.0
"""Seconds for which calls wait for a node that says the cluster is down. A failover that is under way takes as long."""

_LEAST_SECONDS: Final = 0.05
"""What must be left of a call's time for another attempt."""


class Nodes(Protocol):
    """The nodes that a call asks."""

    def node_of(self, route: Route) -> Node:
        """Returns the node of an address, as it is to be asked."""
        ...

    def replica_of(self, slots: SlotMap, index: int, slot: int) -> Address | None:
        """Returns which replica of a shard is to be read for a slot. None: the primary is."""
        ...

    def seconds_until_given_up(self, address: Address | None, *, reads: bool) -> float:
        """Returns for how many seconds a call may wait for a node that says the cluster is down. None: for nobody.

        `reads`: the call only reads, which a node may allow when it does not let others write.
        """
        ...

    def served(self, route: Route, *, reads: bool) -> None:
        """Told that a node has answered a call, which only `reads`, or not."""
        ...


@dataclass(frozen=True, slots=True)
class Unserved:
    """Keys for which nothing came, by their positions, and why. `node` is who was asked last; None: nobody has them."""

    node: Node | None
    error: StoreError
    positions: Sequence[int]


class ClusterCall:
    """Serves the keys of one call. What cannot be served is in `failures` when it has ended."""

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        names: Sequence[str],
        call: Share,
        *,
        reads: bool,
        repeats: bool,
        unserved: Callable[[Sequence[int]], list[int]] | None,
    ) -> None:
        """See `NodesConnector._serve`."""
        self._cluster: Final = cluster
        self._nodes: Final = nodes
        self._slots: Final = slots_of(names)
        self._call: Final = call
        self._reads: Final = reads
        self._repeats: Final = repeats
        self._unserved: Final = unserved
        self._began: Final = time.monotonic()
        self._pause = _PAUSE
        self._waits_since: float | None = None
        self.failures: Final[list[Unserved]] = []

    async def run(self) -> None:
        """Asks for every key.

        Raises:
            StoreError: the map of the slots is missing, and no node gives it.
            What a share of the call raises that is not a `StoreError`. The others were cancelled then, and have ended.
        """
        slots = await self._cluster.map()
        await self._ask_by_map(range(len(self._slots)), slots, hops=0, reads=self._reads)

    async def _ask_by_map(self, positions: Iterable[int], slots: SlotMap, *, hops: int, reads: bool) -> None:
        """Asks for keys where the map says that they are."""
        shards: dict[int, list[int]] = {}
        owner_of = slots.owner_of
        for position in positions:
            index = owner_of(self._slots[position])
            if index in shards:
                shards[index].append(position)
            else:
                shards[index] = [position]
        homeless = shards.pop(NOWHERE, [])
        routes: Routes = {}
        for index, owned in shards.items():
            if not reads:
                routes[slots.shards[index].primary.address, Way.PLAIN] = owned
                continue
            for position in owned:
                replica = self._nodes.replica_of(slots, index, self._slots[position])
                route = (slots.shards[index].primary.address, Way.PLAIN) if replica is None else (replica, Way.REPLICA)
                routes.setdefault(route, []).append(position)
        await self._ask(routes, hops=hops, homeless=homeless)

    async def _ask(self, routes: Routes, *, hops: int, homeless: list[int] | None = None) -> None:
        """Asks several nodes side by side, and waits for what nobody has."""
        jobs = [partial(self._ask_one, route, positions, hops) for route, positions in routes.items()]
        if homeless:
            lost = StoreUnavailableError(self._cluster.store, "no node of the cluster has the slots of some keys")
            jobs.append(partial(self._outwait, None, homeless, lost, hops))
        if len(jobs) == 1:
            await jobs[0]()
        elif jobs:
            await gather(jobs, at_a_time=len(jobs))

    async def _ask_one(self, route: Route, positions: list[int], hops: int) -> None:
        way = route[1]
        node: Node | None = None
        try:
            node = self._nodes.node_of(route)
            await self._call(node, positions, way)
        except RedirectionsError as redirections:
            await self._follow(node, route, redirections.by_slot, hops)
        except StoreError as error:
            await self._after_failure(node, route, positions, error.with_traceback(None), hops)
        else:
            self._nodes.served(route, reads=self._reads)

    async def _follow(
        self, node: Node | None, route: Route, by_position: Mapping[int, RedirectedError], hops: int
    ) -> None:
        """Goes on with keys that a node did not serve, where it said."""
        address, way = route
        first = next(iter(by_position.values()))
        if hops >= _HOPS:
            error = StoreUnavailableError(self._cluster.store, f"{hops} nodes named another one: {first.message}")
            self._fail(node, by_position, error)
            return
        routes: Routes = {}
        by_map: list[int] = []
        waiting: list[int] = []
        for position, said in by_position.items():
            target = self._cluster.learn(said, address) if said.kind in {Redirect.MOVED, Redirect.ASK} else None
            if target is not None:
                following = Way.PLAIN if said.kind is Redirect.MOVED else Way.ASKING
                routes.setdefault((target, following), []).append(position)
            elif said.kind is Redirect.TRYAGAIN and not way.is_whole:
                routes.setdefault((address, Way.WHOLE), []).append(position)
            elif said.kind is Redirect.PRIMARY:
                by_map.append(position)
            else:
                waiting.append(position)
        if hops >= 2:
            await asyncio.sleep(self._next_pause())
        jobs: list[Callable[[], Awaitable[None]]] = []
        if routes:
            jobs.append(partial(self._ask, routes, hops=hops + 1))
        if by_map:
            slots = await self._cluster.map()
            jobs.append(partial(self._ask_by_map, by_map, slots, hops=hops + 1, reads=False))
        if waiting:
            down = StoreUnavailableError(self._cluster.store, first.message)
            jobs.append(partial(self._outwait, address, waiting, down, hops))
        await gather(jobs, at_a_time=len(jobs))

    async def _outwait(self, address: Address | None, positions: list[int], error: StoreError, hops: int) -> None:
        """Asks again for keys that nobody serves for now, after a pause, unless that has lasted for long."""
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since = now
        left = min(
            self._nodes.seconds_until_given_up(address, reads=self._reads),
            self._waits_since + OUTAGE - now,  # the node may serve others meanwhile
            seconds_for_a_share() - _LEAST_SECONDS,
        )
        if left <= 0:
            self._cluster.doubt()
            self._fail(None, positions, error)
            return
        await asyncio.sleep(min(self._next_pause(), left))
        slots = await self._map_after(time.monotonic())
        if slots is None:
            self._fail(None, positions, error)
            return
        await self._ask_by_map(positions, slots, hops=hops, reads=False)

    async def _after_failure(
        self, node: Node | None, route: Route, positions: list[int], error: StoreError, hops: int
    ) -> None:
        """Goes on with keys whose node has failed, where another one has them by now."""
        address, way = route
        left = positions if self._unserved is None else self._unserved(positions)
        if not left:
            return
        if way.is_whole and isinstance(error, ValueTooLargeError):
            moving = StoreUnavailableError(self._cluster.store, f"its slot is moving to another node: {error.message}")
            await self._outwait(address, left, moving, hops)
            return
        is_lost = isinstance(error, (StoreUnavailableError, OperationTimeoutError)) or error.retryable
        if way is Way.REPLICA and node is not None:  # whatever ails it: the primary may be well
            node.leave(error)
            self._cluster.doubt()
            slots = self._cluster.known
        elif error.permanent or not is_lost or not self._repeats or hops >= _HOPS:
            self._fail(node, left, error)
            return
        elif isinstance(error, CircuitOpenError):  # what a call waits for, the calls before it have waited for
            self._cluster.doubt()
            slots = self._cluster.known
        else:
            slots = await self._map_after(self._began)
        if slots is None:
            self._fail(node, left, error)
            return
        tried = {None} if way is Way.REPLICA else {address, None}  # a replica may be the primary by now
        moved = [position for position in left if slots.primary_of(self._slots[position]) not in tried]
        if len(moved) < len(left):
            stayed = set(left) - set(moved)
            self._fail(node, [position for position in left if position in stayed], error)
        if moved and seconds_for_a_share() > _LEAST_SECONDS:
            await self._ask_by_map(moved, slots, hops=hops + 1, reads=False)
        elif moved:
            self._fail(node, moved, error)

    async def _map_after(self, moment: float) -> SlotMap | None:
        """Returns a map that was asked for after a time of `time.monotonic`. None: there was none in time."""
        if self._cluster.asked_at > moment:
            return self._cluster.known
        seconds = seconds_for_a_share() - _LEAST_SECONDS
        timer = asyncio.timeout(None if math.isinf(seconds) else max(seconds, 0.0))
        try:
            async with timer:
                return await self._cluster.renewed()
        except StoreError:
            return None
        except TimeoutError:
            if not timer.expired():
                raise
            return None

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        return pause

    def _fail(self, node: Node | None, positions: Iterable[int], error: StoreError) -> None:
        self.failures.append(Unserved(node, error, [*positions]))
