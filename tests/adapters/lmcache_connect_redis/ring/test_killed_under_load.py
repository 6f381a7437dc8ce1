"""One server of a ring is killed with -9 while chunks go both ways."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, StoreError

from ..chunks import chunk, holds
from .rings import Servers, chunks

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
DEADLINE = 4.0
LATE = 1.0
"""Seconds that a busy machine may take to run what is due."""


class Load:
    """Gets and puts of one size, one after the other in each task, until it is told to stop."""

    def __init__(
        self, connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers, nbytes: int, errors: str
    ) -> None:
        self.connector = connector
        self.backend = backend
        self.servers = servers
        self.nbytes = nbytes
        self.errors = errors
        self.old = [key for index in range(3) for key in servers.keys_on(index, 2, f"old{nbytes}-")]
        self.new = [key for index in range(3) for key in servers.keys_on(index, 2, f"new{nbytes}-")]
        self.is_over = False
        self.failed = 0
        self.served = 0
        """Chunks of the servers that live."""

    def is_lost(self, key: str) -> bool:
        return self.servers.index_of(key) == 0

    async def fill(self) -> None:
        with chunks(self.backend, self.old, self.nbytes) as objs:
            await self.connector.batched_put(self.old, objs)

    async def get_one(self, rng: random.Random) -> None:
        key = rng.choice(self.old)
        try:
            found = await self.connector.get(key)
        except StoreError:
            assert self.is_lost(key), key
            assert self.errors == "raise"
            self.failed += 1
            return
        if found is None:
            assert self.is_lost(key), key
            self.failed += 1
            return
        self.served += not self.is_lost(key)
        assert holds(found, key)

    async def get_several(self, rng: random.Random) -> None:
        keys = rng.sample(self.old, 4)
        try:
            found = await self.connector.batched_get(keys)
        except StoreError:
            assert any(map(self.is_lost, keys))
            assert self.errors == "raise"
            self.failed += 1
            return
        for key, obj in zip(keys, found, strict=True):
            if obj is None:
                assert self.is_lost(key), key
                self.failed += 1
            else:
                self.served += not self.is_lost(key)
                assert holds(obj, key)

    async def put_one(self, rng: random.Random) -> None:
        key = rng.choice(self.new)
        obj = chunk(self.backend, key, self.nbytes)
        try:
            await self.connector.put(key, obj)
        except StoreError:
            assert self.is_lost(key), key
            self.failed += 1
        else:
            self.served += not self.is_lost(key)
        finally:
            assert obj.get_ref_count() == 1
            obj.ref_count_down()

    async def run(self, seed: int) -> None:
        rng = random.Random(seed)
        calls = [self.get_one, self.get_several, self.put_one]
        while not self.is_over:
            began = time.monotonic()
            await rng.choice(calls)(rng)
            assert time.monotonic() - began < DEADLINE + LATE


@pytest.mark.parametrize("errors", ["miss", "raise"])
@pytest.mark.parametrize(
    "nbytes",
    [
        pytest.param(MIB, id="1MiB"),
        pytest.param(6 * MIB, id="6MiB"),
        pytest.param(32 * MIB, id="32MiB", marks=pytest.mark.long),
    ],
)
async def test_the_other_servers_serve_and_nothing_wrong_is_returned(
    servers: Servers, nbytes: int, errors: str
) -> None:
    config = ConnectorConfig.load(
        operation_timeout=DEADLINE, min_throughput=1 << 40, errors=errors, breaker_reset=0.2, stall_timeout=1.0
    )
    with LocalCPUBackend(max(256 * MIB, 14 * nbytes)) as backend:
        async with ConnectorManager(servers.url(), local_cpu_backend=backend, config=config) as manager:
            load = Load(manager.create_connector(), backend, servers, nbytes, errors)
            await load.fill()
            async with asyncio.timeout(40), asyncio.TaskGroup() as group:
                for seed in range(3):
                    group.create_task(load.run(seed))
                await reached(lambda: load.served >= 4)
                servers.servers[0].kill()
                before = load.served
                await reached(lambda: load.failed > 0 and load.served >= before + 8)
                await asyncio.to_thread(servers.servers[0].restart)
                load.is_over = True
            restarted = time.monotonic()
            lost = next(filter(load.is_lost, load.new))
            with chunk(backend, lost, nbytes) as obj:
                while not await is_put(load.connector, lost, obj):
                    assert time.monotonic() - restarted < 1.0 + LATE
                    await asyncio.sleep(0.02)
            assert holds(await load.connector.get(lost), lost)
        assert backend.statistics().reserved == 0


async def reached(condition: object) -> None:
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.005)


async def is_put(connector: ManagedConnector, key: str, obj: object) -> bool:
    try:
        await connector.put(key, obj)  # type: ignore[arg-type]
    except StoreError:
        return False
    return await connector.exists(key)
