"""What tests of clusters share: names by node, and calls under way while the cluster changes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from lmcache_connect import ConnectorManager, LMCacheConnectError, RemoteConnector
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ClusterServers
from lmcache_connect_redis.topology.slots import slot_of

from .chunks import chunk, holds


def slot_of_key(key: str) -> int:
    [name] = chunk_names("", [key])
    return slot_of(name)


def keys_in(slot: int, count: int, start: str = "key") -> list[str]:
    """`count` keys whose chunks lie in one slot."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        key = f"{start}-{number}"
        number += 1
        if slot_of_key(key) == slot:
            found.append(key)
    return found


async def put(manager: ConnectorManager, connector: RemoteConnector, key: str, nbytes: int) -> None:
    with chunk(manager.local_cpu_backend, key, nbytes) as obj:
        await connector.put(key, obj)


async def size_of(connector: RemoteConnector, key: str) -> int | None:
    """The size of a key's chunk, whose bytes are looked at. None: a miss, or other bytes."""
    obj = await connector.get(key)
    nbytes = None if obj is None else obj.get_size()
    return nbytes if holds(obj, key) else None


async def use_while_a_slot_moves(
    cluster: ClusterServers, manager: ConnectorManager, connector: RemoteConnector, nbytes: int
) -> None:
    """Makes every kind of call for keys that have moved, for others of the slot, and for new ones."""
    slot = 4_711
    stays, moves, new, gone = keys_in(slot, 4)
    elsewhere = "key-elsewhere"
    source = await asyncio.to_thread(cluster.owner_of, slot)
    target = next(server for server in await asyncio.to_thread(cluster.primaries) if server is not source)
    for key in (stays, moves, gone, elsewhere):
        await put(manager, connector, key, nbytes)
    migration = await asyncio.to_thread(cluster.migrate_slot, slot, target)
    await asyncio.to_thread(migration.move_keys, chunk_names("", [moves, gone]))
    for is_over in (False, True):  # while the slot moves, and after it has
        if is_over:
            await asyncio.to_thread(migration.finish)
            assert not await connector.exists(stays)
            await put(manager, connector, stays, nbytes)
        await put(manager, connector, new, nbytes)
        keys = [stays, elsewhere, moves, new, "absent", gone]
        assert await connector.batched_exists(keys) == [key != "absent" for key in keys]
        got = await connector.batched_get(keys)
        assert [holds(obj, key) for key, obj in zip(keys, got, strict=True)] == [key != "absent" for key in keys]
        for more in (1, 2):
            for key in (stays, moves):
                await put(manager, connector, key, nbytes + more)  # replaces it, wherever it is
                assert await size_of(connector, key) == nbytes + more
        assert await connector.remove(stays)
        assert not await connector.exists(stays)  # nor does it come back
        assert await connector.get(stays) is None
        if is_over:
            await put(manager, connector, stays, nbytes)
        assert await connector.remove(gone)
        assert not await connector.exists(gone)
        assert await connector.batched_remove([new, elsewhere]) == [True, True]
        assert not await connector.exists(new)
        await put(manager, connector, gone, nbytes)
        await put(manager, connector, elsewhere, nbytes)
    assert sorted(await connector.list()) == sorted([stays, moves, elsewhere, gone])
    await asyncio.to_thread(cluster.move_slots, [slot], source)


class Load:
    """Calls that go on until they are stopped, each with keys of its own, so that it knows what must be there."""

    def __init__(self, manager: ConnectorManager, connector: RemoteConnector, sizes: Sequence[int]) -> None:
        self._manager = manager
        self._connector = connector
        self._sizes = sizes
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.failed: list[LMCacheConnectError] = []

    def start(self, workers: int, keys: int) -> None:
        self._tasks = [asyncio.create_task(self._work(number, keys)) for number in range(workers)]

    async def stop(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def go_on(self, calls: int) -> None:
        """Returns when so many more calls have been answered."""
        goal = self.done.total() + calls
        while self.done.total() < goal and not all(task.done() for task in self._tasks):
            await asyncio.sleep(0.005)

    async def _work(self, number: int, count: int) -> None:
        generator = random.Random(number)
        keys = [f"worker-{number}-{index}" for index in range(count)]
        stored: dict[str, int] = {}
        while not self._is_over:
            some = generator.sample(keys, 3)
            operation = generator.choice(["put", "put", "get", "batched_get", "batched_exists", "remove"])
            try:
                await self._call(operation, some, stored, generator)
            except LMCacheConnectError as error:
                self.failed.append(error)
                return
            self.done[operation] += 1

    async def _call(self, operation: str, keys: list[str], stored: dict[str, int], generator: random.Random) -> None:
        connector, expected = self._connector, [key in stored for key in keys]
        first = keys[0]
        match operation:
            case "put":
                nbytes = generator.choice(self._sizes) + generator.randrange(100)
                await put(self._manager, connector, first, nbytes)
                stored[first] = nbytes
                return
            case "get":
                brought = await size_of(connector, first)
                told = [brought is not None]
                if brought != stored.get(first):
                    self.wrong.append(f"get of {first} brings {brought} bytes; expected {stored.get(first)}")
            case "batched_get":
                told = [holds(obj, key) for key, obj in zip(keys, await connector.batched_get(keys), strict=True)]
            case "batched_exists":
                told = await connector.batched_exists(keys)
            case _:
                told = [await connector.remove(first)]
                stored.pop(first, None)
        if told != expected[: len(told)]:
            self.wrong.append(f"{operation} of {keys} says {told}; expected {expected}")
