"""What a node of a cluster costs that is killed, or that stops, amid calls of 1 to 32 MiB."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, MemoryObj, RemoteConnector, StoreError
from lmcache_connect.testing import ClusterServers
from lmcache_connect.testing.servers.redis import StoreServer

from .chunks import chunk, holds
from .cluster_load import slot_of_key

pytestmark = pytest.mark.asyncio

SECONDS = 4.0
MOST_BYTES = 4 * (32 << 20)
"""What a call of these tests moves at most."""

SIZES = [1 << 20, 5 << 20, 32 << 20]
KEYS = [f"key-{number}" for number in range(18)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers() as cluster:
        yield cluster


class Calls:
    """Gets and puts that go on, and how each of them ended."""

    def __init__(self, manager: ConnectorManager, connector: RemoteConnector) -> None:
        self._backend = manager.local_cpu_backend
        self._connector = connector
        self.is_over = False
        self.longest = 0.0
        self.wrong: list[str] = []
        self.missed: set[str] = set()
        self.refused: set[str] = set()

    async def put(self, key: str, nbytes: int) -> None:
        with chunk(self._backend, key, nbytes) as obj:
            await self._connector.put(key, obj)

    async def go_on(self, seed: int) -> None:
        generator = random.Random(seed)
        while not self.is_over:
            keys = generator.sample(KEYS, 4)
            began = time.monotonic()
            try:
                if generator.random() < 0.5:
                    await self.put(keys[0], generator.choice(SIZES))
                else:
                    self._look_at(keys, await self._connector.batched_get(keys))
            except StoreError:
                self.refused.update(keys)
            self.longest = max(self.longest, time.monotonic() - began)

    def _look_at(self, keys: list[str], got: Sequence[MemoryObj | None]) -> None:
        for key, obj in zip(keys, got, strict=True):
            if obj is None:
                self.missed.add(key)
            elif not holds(obj, key):
                self.wrong.append(key)


@pytest.mark.parametrize("errors", ["miss", pytest.param("raise", marks=pytest.mark.long)])
@pytest.mark.parametrize("how", ["killed", pytest.param("stopped", marks=pytest.mark.long)])
async def test_a_primary_that_is_gone_costs_its_own_keys_until_its_replica_takes_over(
    cluster: ClusterServers, errors: Literal["miss", "raise"], how: str
) -> None:
    await asyncio.to_thread(cluster.flush)
    victim = await asyncio.to_thread(cluster.owner_of, slot_of_key(KEYS[0]))
    owners = {key: await asyncio.to_thread(cluster.owner_of, slot_of_key(key)) for key in KEYS}
    its_keys = {key for key in KEYS if owners[key] is victim}
    others = [key for key in KEYS if key not in its_keys]
    witness = owners[others[0]]
    before = await asyncio.to_thread(owner, cluster, witness)
    config = ConnectorConfig.load(
        errors=errors, operation_timeout=SECONDS, stall_timeout=1.0, max_local_cpu_bytes=640 << 20
    )
    async with ConnectorManager(cluster.url(), config=config) as manager:
        connector = manager.create_connector()
        calls = Calls(manager, connector)
        for key in KEYS:
            await calls.put(key, 1 << 20)
        tasks = [asyncio.create_task(calls.go_on(seed)) for seed in range(3)]
        await asyncio.sleep(0.2)  # calls are under way
        await asyncio.to_thread(cluster.kill if how == "killed" else cluster.pause, victim)
        try:
            ends = time.monotonic() + 20
            while await asyncio.to_thread(owner, cluster, witness) == before:
                assert time.monotonic() < ends, "the cluster itself does not fail over"
                assert holds(await connector.get(others[0]), others[0])
            await until_put(calls, connector, KEYS[0])
        finally:
            calls.is_over = True
            await asyncio.gather(*tasks)
            if how == "stopped":
                await asyncio.to_thread(cluster.resume, victim)
            await asyncio.to_thread(cluster.mend)
        assert calls.wrong == []
        # The deadline has time for the bytes. One second more: everything here shares a few cores.
        assert calls.longest < SECONDS + MOST_BYTES / config.min_throughput + 1
        if errors == "miss":
            assert calls.missed <= its_keys
            assert not calls.refused
        for key in KEYS:
            await calls.put(key, 1 << 20)
            assert holds(await connector.get(key), key)


def owner(cluster: ClusterServers, witness: StoreServer) -> str | None:
    """Who has the slot of the first key, as another node knows it."""
    return cluster.view(witness).owner_of(slot_of_key(KEYS[0]))


async def until_put(calls: Calls, connector: RemoteConnector, key: str) -> None:
    """Returns when a put has stored what it was given."""
    ends = time.monotonic() + 10
    while True:
        try:
            await calls.put(key, 1 << 20)
            if holds(await connector.get(key), key):
                return
        except StoreError:
            pass
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)


async def test_an_orderly_failover_under_load_costs_no_call(cluster: ClusterServers) -> None:
    await asyncio.to_thread(cluster.flush)
    config = ConnectorConfig.load(errors="raise", operation_timeout=SECONDS, max_local_cpu_bytes=320 << 20)
    async with ConnectorManager(cluster.url(), config=config) as manager:
        connector = manager.create_connector()
        calls = Calls(manager, connector)
        for key in KEYS:
            await calls.put(key, 1 << 20)
        tasks = [asyncio.create_task(calls.go_on(seed)) for seed in range(2)]
        victim = await asyncio.to_thread(cluster.owner_of, slot_of_key(KEYS[0]))
        await asyncio.to_thread(cluster.fail_over, victim)
        await until_put(calls, connector, KEYS[0])
        calls.is_over = True
        await asyncio.gather(*tasks)
        assert calls.wrong == []
        assert calls.missed == set()
        assert calls.refused == set()
