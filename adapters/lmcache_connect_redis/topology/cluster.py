"""`Cluster`: which node of a Redis Cluster has which slot, as it is known now, and how that is found out.

The map is asked for when none is known, when a node says that another one has a slot, when a node does not answer, and
once in a while. One renewal is under way at a time, and all callers share it. They follow one another at a bounded
rate, so that a thousand redirects cost the cluster one question.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Final

import anyio

from lmcache_connect import StoreError, StoreUnavailableError
from lmcache_connect.errors import ConnectorClosedError, StoreCommandError, StoreProtocolError
from lmcache_connect.observability import event
from lmcache_connect.outside import own_copy
from lmcache_connect.transport import HEAD_START, StreamClosedError
from lmcache_connect.url import HostPort

from ..protocol.connection import Connection, lost_connection
from ..protocol.nested import read_nested
from ..protocol.redirects import Redirect, RedirectedError
from ..protocol.replies import encode_command
from .placement import Address, Placement
from .slot_map import Node, SlotMap, SlotMapError, address_of, slot_map_of
from .slots import slot_of

_EVERY: Final = 0.5
"""Seconds between two renewals, at least."""

_FRESH_SECONDS: Final = 60.0
"""For how long a map counts that nothing contradicts. Nobody tells of a replica that was added."""

_ASKED: Final = 16
"""How many of the nodes that are known a renewal asks, at most, before it asks the hosts of the URL."""

_SIDE_BY_SIDE: Final = 3

_MAP_BYTES: Final = 16 << 20
_HOST_BYTES: Final = 1024
_DEPTH: Final = 5

_SLOTS_COMMAND: Final = encode_command(b"CLUSTER", b"SLOTS")

_NO_CLUSTER: Final = ("cluster support disabled", "unknown command")
"""What a server says that is not a node of a cluster: a single one, or a sentinel."""


class NoClusterError(StoreCommandError):
    """The server is not a node of a cluster."""

    permanent = True


class Cluster(Placement):
    """The map of a cluster's slots. Belongs to one event loop; what is known may be asked for from any thread."""

    def __init__(
        self,
        store: str,
        seeds: Sequence[Address],
        open_connection: Callable[[Address], Awaitable[Connection]],
        seconds: float,
        on_renewed: Callable[[SlotMap], None],
    ) -> None:
        """`seeds`: the hosts of the URL. `open_connection` connects to a node. `seconds`: how long asking one takes.

        `on_renewed` is told of each map that was asked for.
        """
        self.store: Final = store
        self._seeds: Final = tuple(seeds)
        self._open: Final = open_connection
        self._seconds: Final = seconds
        self._map: SlotMap | None = None
        self._renewal: asyncio.Task[SlotMap] | None = None
        self._is_closed = False
        self._renewed_at = float("-inf")
        self._on_renewed: Final = on_renewed
        self.asked_at = float("-inf")
        """When the map was asked for, by `time.monotonic`."""
        self._learned: dict[int, tuple[Address, float]] = {}
        """What redirects have told since a renewal began: a map that was asked for before may be older."""

    @property
    def known(self) -> SlotMap | None:
        """The map as it is known now."""
        return self._map

    @property
    def addresses(self) -> Sequence[Address]:
        """The primaries that are known, or the hosts of the URL."""
        known = self._map
        return self._seeds if known is None else tuple(shard.primary.address for shard in known.shards)

    def place(self, names: Sequence[str]) -> dict[Address, list[int]]:
        groups: dict[Address, list[int]] = {}
        for position, name in enumerate(names):
            groups.setdefault(self.address_of(name), []).append(position)
        return groups

    def address_of(self, name: str) -> Address:
        known = self._map
        address = None if known is None else known.primary_of(slot_of(name))
        if address is None:
            raise StoreUnavailableError(self.store, "no node of the cluster is known to have the slot of a key")
        return address

    async def map(self) -> SlotMap:
        """Returns the map, which is asked for where none is known. Raises what `renewed` raises."""
        known = self._map
        if known is None:
            return await self.renewed()
        if time.monotonic() - self._renewed_at > _FRESH_SECONDS:
            self.doubt()
        return known

    async def renewed(self) -> SlotMap:
        """Returns a map that was asked for just now. A caller that is cancelled leaves the others waiting.

        Raises:
            StoreError: no node answers. Why the last one did not.
        """
        renewal = self._begin()
        if renewal is None:
            raise ConnectorClosedError(f"the connector of {self.store}")
        await asyncio.wait((renewal,))
        if renewal.cancelled():
            raise ConnectorClosedError(f"the connector of {self.store}")
        if (error := renewal.exception()) is not None:
            raise own_copy(error)
        return renewal.result()

    def doubt(self) -> None:
        """Has the map asked for again, soon, in the background."""
        self._begin()

    def learn(self, redirected: RedirectedError, said_by: Address) -> Address | None:
        """Returns the node that a redirect names. Where it moved for good, the map says so from now on.

        Raises:
            StoreProtocolError: it names none.
        """
        try:
            target = address_of(redirected.host, redirected.port, said_by)
        except SlotMapError as error:
            raise StoreProtocolError(self.store, f"a redirect leads nowhere: {error}") from None
        if redirected.kind is not Redirect.MOVED:
            return target
        self.doubt()
        if target is not None and redirected.slot is not None and self._map is not None:
            self._map = self._map.with_slot(redirected.slot, target)
            self._learned[redirected.slot] = (target, time.monotonic())
        return target

    async def close(self) -> None:
        """Ends a renewal that is under way. Idempotent."""
        self._is_closed = True
        if (renewal := self._renewal) is not None:
            renewal.cancel()
            await asyncio.wait((renewal,))

    def _begin(self) -> asyncio.Task[SlotMap] | None:
        if self._is_closed:
            return None
        if self._renewal is None or self._renewal.done():
            # In a context of its own: it outlives the call that it is begun for, and works for others.
            self._renewal = asyncio.get_running_loop().create_task(self._renew(), context=Context())
            self._renewal.add_done_callback(_looked_at)
        return self._renewal

    async def _renew(self) -> SlotMap:
        if (early := self._renewed_at + _EVERY - time.monotonic()) > 0:
            await asyncio.sleep(early)
        began = time.monotonic()
        try:
            fresh = await self._ask_any()
        finally:
            self._renewed_at = time.monotonic()
        self.asked_at = began
        self._learned = {slot: said for slot, said in self._learned.items() if said[1] >= began}
        for slot, (address, _) in self._learned.items():
            fresh = fresh.with_slot(slot, address)
        before, self._map = self._map, fresh
        if before is not None and _primaries(before) != _primaries(fresh):
            event(logging.INFO, "cluster_changed", store=self.store, primaries=len(fresh.shards))
        self._on_renewed(fresh)
        return fresh

    async def _ask_any(self) -> SlotMap:
        """Returns the map of the first node that has one. The hosts of the URL are asked when no known node answers."""
        known = [node.address for node in self._map.nodes()] if self._map is not None else []
        random.shuffle(known)
        failure: StoreError | None = None
        asked: set[Address] = set()
        for group in (known[:_ASKED], self._seeds):
            candidates = [address for address in group if address not in asked]
            asked.update(candidates)
            answered = await self._ask_first(candidates)
            if isinstance(answered, SlotMap):
                return answered
            if answered is not None and (failure is None or not failure.permanent):
                failure = answered
        raise failure or StoreUnavailableError(self.store, "no node of the cluster answers")

    async def _ask_first(self, addresses: Sequence[Address]) -> SlotMap | StoreError | None:
        found: list[SlotMap] = []
        partial: list[SlotMap] = []
        failures: list[StoreError] = []
        pending = iter(addresses)

        async def work() -> None:
            for address in pending:
                try:
                    asked = await self._ask(address)
                except StoreError as error:
                    failures.append(error.with_traceback(None))
                else:
                    (found if asked.is_whole else partial).append(asked)
                if found or len(failures) + len(partial) == len(addresses):
                    group.cancel_scope.cancel()
                    return

        async with anyio.create_task_group() as group:
            for number in range(len(addresses)):
                if number >= _SIDE_BY_SIDE:  # those before hang, or are slow
                    await anyio.sleep(HEAD_START)
                group.start_soon(work)
        # Where slots are lost, all nodes say so. A node that was reset or forgotten knows of no others.
        best = max(partial, key=lambda one: len(one.shards), default=None)
        if found or best is not None:
            return found[0] if found else best
        return next((error for error in failures if error.permanent), failures[-1]) if failures else None

    async def _ask(self, address: Address) -> SlotMap:
        connection: Connection | None = None
        try:
            with anyio.fail_after(self._seconds):
                connection = await self._open(address)
                await connection.send(_SLOTS_COMMAND)
                told = await read_nested(connection, _MAP_BYTES, _HOST_BYTES, _DEPTH, gives_way=True)
                return slot_map_of(told, address)
        except SlotMapError as error:
            raise StoreProtocolError(self.store, f"the reply to CLUSTER SLOTS cannot be a map: {error}") from None
        except StreamClosedError as error:
            raise lost_connection(self.store, error) from error.with_traceback(None)
        except TimeoutError:
            raise StoreUnavailableError(self.store, f"no map of the slots within {self._seconds:g} s") from None
        except StoreCommandError as error:
            if not any(words in error.message.lower() for words in _NO_CLUSTER):
                raise
            plain = f"redis://{HostPort(host=address[0], port=address[1])}"
            hint = f"use a URL of one server, such as {plain}, or of sentinels"
            raise NoClusterError(self.store, f"{error.message}; {hint}") from None
        finally:
            if connection is not None:
                connection.close()


def _primaries(slots: SlotMap) -> set[Node]:
    return {shard.primary for shard in slots.shards}


def _looked_at(renewal: asyncio.Task[SlotMap]) -> None:
    """Where nobody waits for it, a failure is nobody's: the next call finds the same out."""
    if not renewal.cancelled():
        renewal.exception()
