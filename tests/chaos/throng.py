"""`throng`: thousands of keepers of one connector, which all make single calls at the same time, and a vandal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import redis

from lmcache_connect import LocalCPUBackend
from lmcache_connect.record import chunk_names

from .caller import Caller
from .journal import Journal
from .keeper import Keeper, own_keys
from .losses import STRUCK, Losses

SMALLEST: Final = 48 << 10
"""The largest chunk of most keepers, so that their keys fit into the memory of a small machine together."""

LEAST_TASKS: Final = 20
"""So many tasks are in every loop and thread that a throng uses."""

_LARGE_EVERY: Final = 50
"""One keeper of so many has chunks of up to `largest` bytes."""

_STRAY: Final = 2.0
"""Seconds for which what a failed call has sent may still arrive, at a server that thousands use."""

Steps = list[tuple[str, Callable[[], Awaitable[object]]]]


def throng(
    caller: Caller, backend: LocalCPUBackend, losses: Losses, names: list[str], largest: int, seed: str
) -> Steps:
    """The steps of one keeper for each name."""
    steps: Steps = []
    for number, name in enumerate(names):
        most = largest if number % _LARGE_EVERY == 0 else SMALLEST
        rng = random.Random(f"{seed}/{name}")
        keeper = Keeper(caller, backend, rng, name, _STRAY, most, may_be_gone=losses.may_be_gone)
        steps.append((name, keeper.step))
    return steps


class Vandal:
    """Changes bytes of records of the keepers of `names`, on the server of `url`."""

    def __init__(self, url: str, losses: Losses, names: list[str], rng: random.Random, journal: Journal) -> None:
        self._url = url
        self._losses = losses
        keys = [key for name in names for key in own_keys(name)]
        self._keys = dict(zip((name.encode() for name in chunk_names("", keys)), keys, strict=True))
        self._rng = rng
        self._journal = journal

    async def step(self) -> None:
        """Damages some of the records that the server holds, if it is there."""
        places = [self._rng.randrange(1 << 10) for _ in range(8)]
        self._journal.count(f"{STRUCK} records damaged", await asyncio.to_thread(self._damage, places))

    def _damage(self, places: list[int]) -> int:
        """Changes the byte at one of `places` in each of so many records. Returns how many."""
        damaged = 0
        client: Any = redis.Redis.from_url(self._url, protocol=2, socket_timeout=5)
        with client, suppress(redis.RedisError):
            for place in places:
                key = self._keys.get(client.randomkey())  # None: the server is empty, or a put is not finished
                damaged += key is not None and self._losses.damage(client, key, place)
        return damaged
