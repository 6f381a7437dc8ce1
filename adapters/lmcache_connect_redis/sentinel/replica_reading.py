"""`ReplicaReadingConnector`: the connector of a primary whose gets and look-ups are made at a replica."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from lmcache_connect import ConnectorContext, Key, StoreError
from lmcache_connect.contract import Flags, seconds_left
from lmcache_connect.errors import OperationTimeoutError
from lmcache_connect.observability import event
from lmcache_connect.streaming import Arrivals, DividedArrivals

from ..connector import RedisConnector
from ..credentials.credentials import Credentials
from ..nodes.node import REPLICA_SHARE
from ..nodes.replica_rest import ReplicaRest
from ..options import RedisOptions
from ..topology.sentinel import SentinelReplica
from ..topology.server import Server
from ..way import Way

_TELL_EVERY: Final = 60.0


class ReplicaReadingConnector(RedisConnector):
    """Makes gets and look-ups at a replica, and everything else at the primary.

    A replica that is behind brings misses, and what was replaced or removed a moment ago. Where it does not answer, the
    primary is asked, within the same call. A record that is damaged there is asked of the primary: only what is damaged
    on the primary counts as damaged, and is perhaps removed.
    """

    def __init__(
        self,
        context: ConnectorContext,
        options: RedisOptions,
        primary: Server,
        replica: SentinelReplica,
        *,
        credentials: Credentials | None = None,
    ) -> None:
        """`credentials` are closed with the connector."""
        super().__init__(context, options, primary, credentials=credentials)
        self._replica: Final = replica
        self._reader: Final = RedisConnector(context, options, replica, line=self._line, chunk_size=self._chunk_size)
        self._rest: Final = ReplicaRest()
        """After a replica that failed, none is asked for a while."""
        self._damage_told = -math.inf

    async def close(self) -> None:
        await self._reader.close()
        await super().close()

    async def exists(self, key: Key) -> bool:
        """Returns whether a replica, or else the primary, holds the chunk."""
        return (await self.batched_exists((key,)))[0]

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for each key whether a replica, or else the primary, holds its chunk."""
        flags: Flags = []

        async def ask() -> None:
            nonlocal flags
            flags = await self._reader.batched_exists(keys)

        if await self._is_answered(ask):
            return flags
        return await super().batched_exists(keys)

    async def receive(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        *,
        may_wait: bool = False,
        nbytes: int | None = None,
        way: Way = Way.PLAIN,
    ) -> None:
        divided = DividedArrivals(arrivals)
        each = None if nbytes is None else nbytes // max(len(names), 1)
        receive = partial(_receive, keys, names, divided, each=each, may_wait=may_wait)
        left: Sequence[int] = range(len(names))

        async def ask() -> None:
            nonlocal left
            slots = left
            try:
                await receive(self._reader.receive, slots)
            finally:
                left = [slot for slot in slots if arrivals.found[slot] is None and slot not in arrivals.too_large]

        if await self._is_answered(ask, waits=may_wait):
            left = [slot for slot in left if slot in arrivals.corrupt]
        if arrivals.corrupt:
            self._tell_of_damage(len(arrivals.corrupt))
            arrivals.corrupt.clear()
        left = [slot for slot in left if slot < arrivals.wanted]
        if left:
            await receive(partial(super().receive, way=way), left)

    # --------------------------------------------------------------------------------------------------- inside

    async def _is_answered(self, ask: Callable[[], Awaitable[None]], *, waits: bool = False) -> bool:
        """Returns whether a replica has answered. False: the primary is to be asked.

        `waits`: the call may wait for something else than the replica, and so is given all of the time.
        """
        if not self._rest.is_over:
            return False
        self._rest.asked()
        left = seconds_left()
        seconds = None if waits or math.isinf(left) else max(0.0, REPLICA_SHARE * left)
        timer = asyncio.timeout(seconds)
        try:
            async with timer:
                await ask()
        except StoreError as error:
            self._leave(error)
            return False
        except TimeoutError:
            if not timer.expired():
                raise
            self._leave(OperationTimeoutError(self._store, "a replica", seconds or 0.0))
            return False
        self._rest.answered()
        return True

    def _leave(self, error: StoreError) -> None:
        if self._rest.failed():
            self._replica.leave()
            event(logging.WARNING, "replica_left", store=self._store, error=error.message)

    def _tell_of_damage(self, records: int) -> None:
        if (now := time.monotonic()) >= self._damage_told + _TELL_EVERY:
            self._damage_told = now
            event(logging.WARNING, "damaged_on_replica", store=self._store, records=records)


async def _receive(
    keys: Sequence[str],
    names: Sequence[str],
    divided: DividedArrivals,
    receive: Callable[..., Awaitable[None]],
    slots: Sequence[int],
    *,
    each: int | None,
    may_wait: bool,
) -> None:
    """Receives some slots of a get. When it ends, they have what has come to them, and nothing more comes."""
    share = divided.share(slots)
    try:
        await receive(
            [keys[slot] for slot in slots],
            [names[slot] for slot in slots],
            share,
            may_wait=may_wait,
            nbytes=None if each is None else each * len(slots),
        )
    finally:
        divided.take(share)
