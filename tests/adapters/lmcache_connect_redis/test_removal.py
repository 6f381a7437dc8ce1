"""On a real server, a get removes neither a good record that was put meanwhile nor what another program has written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from lmcache_connect import ConnectorManager, CorruptRecordError, LocalCPUBackend, ManagedConnector
from lmcache_connect.memory import release_all
from lmcache_connect.record import chunk_names, encode_record
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_reference_connectors.redis import RedisReferenceAdapter

pytestmark = pytest.mark.asyncio

NBYTES: Final = 100_000
SEEN: Final = CorruptRecordError("checksum", "seen before the record was replaced", removable=True)
FOREIGN: Final = {
    "a word": b"hello",
    "nothing": b"",
    "a number": b"1",
    "a page": b"<html>" * 100,
    "a bare payload": random.Random(7).randbytes(65_536),
    "a record of another release": b"KVCF\x09" + bytes(200),
    "a magic alone": b"KVCF",
}


@pytest.fixture(params=["redis", "plain-redis"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def connectors(
    scheme: str, server: ValkeyServer, backend: LocalCPUBackend, count: int = 1
) -> AsyncIterator[tuple[ManagedConnector, ...]]:
    server.flush()
    url = server.url().replace("redis", scheme, 1)
    async with ConnectorManager(url, None, backend) as manager:
        manager.register(RedisReferenceAdapter)
        yield tuple(manager.create_connector() for _ in range(count))


async def put(connector: ManagedConnector, backend: LocalCPUBackend, key: str, fill: int = 1) -> None:
    with await backend.allocate_async((NBYTES,), "uint8") as obj:
        obj.byte_array[:] = bytes([fill]) * NBYTES
        await connector.put(key, obj)


async def is_there(connector: ManagedConnector, key: str) -> bool:
    found = await connector.get(key)
    release_all([found])
    return found is not None


def damage(server: ValkeyServer) -> bytes:
    """Flips a bit in the payload of the one stored string, and returns its name."""
    with server.client() as client:
        (name,) = client.keys()
        value = client.getrange(name, 50_000, 50_000)
        assert isinstance(name, bytes)
        assert isinstance(value, bytes)
        client.setrange(name, 50_000, bytes([value[0] ^ 4]))
        return name


async def test_the_removal_of_a_damaged_record_spares_the_good_one_that_was_put_after_the_get(
    scheme: str, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with connectors(scheme, valkey_server, local_cpu_backend, 2) as (reader, writer):
        await put(writer, local_cpu_backend, "k")
        damage(valkey_server)
        with pytest.raises(CorruptRecordError) as caught:
            await reader.wrapped.get("k")
        assert caught.value.removable
        await put(writer, local_cpu_backend, "k")  # acknowledged
        await reader.wrapped.discard_corrupt("k", caught.value)
        assert await is_there(writer, "k")
        assert ("checksum", "removed") not in reader.metrics.removals


async def test_readers_of_a_damaged_record_never_remove_the_good_one_that_is_put_meanwhile(
    scheme: str, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with connectors(scheme, valkey_server, local_cpu_backend, 4) as (writer, *readers):
        for number in range(40):
            await put(writer, local_cpu_backend, "k")
            damage(valkey_server)
            seen = [asyncio.create_task(reader.wrapped.remove_damaged("k", SEEN)) for reader in readers]
            gets = [asyncio.create_task(is_there(reader, "k")) for reader in readers]
            for _ in range(number):  # the put meets the second look at another point each time
                await asyncio.sleep(0)
            await put(writer, local_cpu_backend, "k")
            await asyncio.gather(*gets, *seen)
            assert await is_there(writer, "k"), f"an acknowledged put is gone in round {number}"


async def test_a_record_that_is_still_damaged_at_the_second_look_is_removed(
    valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with connectors("plain-redis", valkey_server, local_cpu_backend) as (connector,):
        await put(connector, local_cpu_backend, "k")
        name = damage(valkey_server)
        assert not await is_there(connector, "k")
        with valkey_server.client() as client:
            assert not client.exists(name)
        assert connector.metrics.removals == {("checksum", "removed"): 1}


async def test_eleven_damaged_records_leave_the_eleventh_in_the_store(
    valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with connectors("plain-redis", valkey_server, local_cpu_backend) as (connector,):
        for number in range(11):
            await put(connector, local_cpu_backend, "k")
            damage(valkey_server)
            assert not await is_there(connector, "k")
            with valkey_server.client() as client:
                assert bool(client.exists(*chunk_names("", ["k"]))) == (number == 10)
        assert connector.removals_suspended


@pytest.mark.parametrize(("scheme", "on_both_looks"), [("redis", False), ("plain-redis", False), ("plain-redis", True)])
async def test_a_record_that_is_damaged_on_its_way_stays(
    valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend, scheme: str, on_both_looks: bool
) -> None:
    valkey_server.flush()
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy, valkey_server.client() as client:
        url = f"{scheme}://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, None, local_cpu_backend) as manager:
            manager.register(RedisReferenceAdapter)
            connector = manager.create_connector()
            await put(connector, local_cpu_backend, "k")
            (name,) = client.keys()
            stored = client.get(name)
            for _ in range(8):  # fewer than suspend removals
                connector = manager.create_connector()
                proxy.arm(Fault(FaultKind.FLIP, after_bytes=60_000, count=None if on_both_looks else 1))
                assert not await is_there(connector, "k")
                proxy.disarm()
                assert client.get(name) == stored
                assert await is_there(connector, "k")


@pytest.mark.parametrize("what", FOREIGN)
async def test_another_programs_string_is_a_miss_and_stays(
    scheme: str, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend, what: str
) -> None:
    async with connectors(scheme, valkey_server, local_cpu_backend) as (connector,):
        await put(connector, local_cpu_backend, "k")
        with valkey_server.client() as client:
            (name,) = client.keys()
            for place in {name, b"k"}:  # where our record lies, and where the key itself leads
                client.set(place, FOREIGN[what])
            for _ in range(3):
                assert not await is_there(connector, "k")
                assert await connector.batched_get(["k", "k"]) == [None, None]
            for place in {name, b"k"}:
                assert client.get(place) == FOREIGN[what]
        assert {outcome for _, outcome in connector.metrics.removals} <= {"not_ours"}


async def test_an_intact_record_of_another_key_is_a_miss_and_stays(
    scheme: str, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with connectors(scheme, valkey_server, local_cpu_backend) as (connector,):
        await put(connector, local_cpu_backend, "k")
        with await local_cpu_backend.allocate_async((10,), "uint8") as obj, valkey_server.client() as client:
            obj.byte_array[:] = bytes(10)
            (name,) = client.keys()
            client.set(name, encode_record("another", obj))
            record = client.get(name)
            assert not await is_there(connector, "k")
            assert client.get(name) == record


@pytest.mark.parametrize("payload", [b"p" * 128, random.Random(1).randbytes(65_536), b""])
async def test_lmcaches_own_halves_are_never_removed_by_a_get(
    valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend, payload: bytes
) -> None:
    valkey_server.flush()
    url = f"{valkey_server.url()}?layout=lmcache"
    async with ConnectorManager(url, None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        with valkey_server.client() as client:
            halves = {"kmetadata": b"\x80\0\0\0garbage", "kkv_bytes": payload}
            for name, value in halves.items():
                client.set(name, value)
            for _ in range(3):
                assert not await is_there(connector, "k")
                assert await connector.batched_get(["k"]) == [None]
            assert {name: client.get(name) for name in halves} == halves
