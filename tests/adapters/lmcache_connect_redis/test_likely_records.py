"""Records of one kind, one behind the other, are received by a short way. It takes nothing for granted."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.memory import release_all
from lmcache_connect.record import chunk_names, encode_record
from lmcache_connect.testing import ValkeyServer

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

KIB = 1 << 10
SIZE = 40 * KIB
COUNT = 40
CONFIG = ConnectorConfig.load(operation_timeout=10, retries=0)


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(32 << 20) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()
        assert made.statistics().leaked_objects == 0


@pytest_asyncio.fixture(params=["thread", "loop"])
async def connector(
    request: pytest.FixtureRequest, valkey_url: str, backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    url = f"{valkey_url}?stripe=65536&io={request.param}"
    async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
        made = manager.create_connector()
        for index in range(COUNT):
            with chunk(backend, f"k{index}", SIZE) as obj:
                await made.put(f"k{index}", obj)
        yield made


KEYS = [f"k{index}" for index in range(COUNT)]
NAMES = chunk_names("", KEYS)

Damage = Callable[[bytes], bytes | None]


def flipped(offset: int) -> Damage:
    def damage(record: bytes) -> bytes:
        at = offset % len(record)
        return record[:at] + bytes((record[at] ^ 1,)) + record[at + 1 :]

    return damage


async def test_all_records_of_a_batch_arrive_in_their_slots(connector: ManagedConnector) -> None:
    for _ in range(2):
        found = await connector.batched_get(KEYS)
        assert [holds(obj, key) for obj, key in zip(found, KEYS, strict=True)] == [True] * COUNT


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda record: None, None),
        (lambda record: record[:-1], "length"),
        (lambda record: record + b"x", "length"),
        (lambda record: b"", "short"),
        *((flipped(offset), None) for offset in (0, 4, 5, 6, 8, 15)),
        (flipped(16), "header"),
        (flipped(31), "header"),
        (flipped(40), "header"),
        (flipped(52), "header"),
        (flipped(60), "header"),
        (flipped(64), "header"),
        (flipped(68), "checksum"),
        (flipped(20_000), "checksum"),
        (flipped(-1), "checksum"),
    ],
)
async def test_one_damaged_record_in_the_middle_is_a_miss_and_the_others_stay_in_their_slots(
    connector: ManagedConnector, valkey_server: ValkeyServer, damage: Damage, reason: str | None
) -> None:
    with valkey_server.client() as client:
        for index in (7, 20, COUNT - 1):
            record = damage(client.get(NAMES[index]))
            if record is None:
                client.delete(NAMES[index])
            else:
                client.set(NAMES[index], record)
    found = await connector.batched_get(KEYS)
    right = [obj is not None and holds(obj, key) for obj, key in zip(found, KEYS, strict=True)]
    assert right == [index not in (7, 20, COUNT - 1) for index in range(COUNT)]
    if reason is not None:
        assert connector.statistics()["batched_get"].misses[f"corrupt:{reason}"] == 3


async def test_another_keys_record_in_the_middle_is_a_miss(
    connector: ManagedConnector, valkey_server: ValkeyServer
) -> None:
    with valkey_server.client() as client:
        client.set(NAMES[7], client.get(NAMES[8]))
    found = await connector.batched_get(KEYS)
    assert found[7] is None
    assert [holds(obj, key) for obj, key in zip(found, KEYS, strict=True) if key != "k7"] == [True] * (COUNT - 1)
    assert connector.statistics()["batched_get"].misses["corrupt:key"] == 1


async def test_other_sizes_shapes_formats_and_striped_ones_in_between_arrive_as_they_were_put(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    for index, nbytes in ((3, 1), (4, 0x10000), (9, 500 * KIB), (10, SIZE + 1), (20, 300 * KIB), (21, 4096)):
        with chunk(backend, f"k{index}", nbytes) as obj:
            await connector.put(f"k{index}", obj)
    other = backend.allocate((2, SIZE // 4), "bfloat16")
    assert other is not None
    with other:
        other.byte_array[:] = bytes(SIZE)
        await connector.put("k30", other)
    found = await connector.batched_get(KEYS)
    assert found[30] is not None
    assert found[30].get_shapes() == [(2, SIZE // 4)]
    assert [str(dtype) for dtype in found[30].get_dtypes()] == ["bfloat16"]
    assert found[31] is not None
    assert found[31].get_shapes() == [(SIZE,)]
    with found[30] as obj:
        assert bytes(obj.byte_array) == bytes(SIZE)
    found[30] = None
    right = [holds(obj, key) for obj, key in zip(found, KEYS, strict=True) if obj is not None]
    assert right == [True] * (COUNT - 1)


async def test_records_with_and_without_a_checksum_may_follow_each_other(
    connector: ManagedConnector, backend: LocalCPUBackend, valkey_server: ValkeyServer
) -> None:
    with valkey_server.client() as client:
        for index in range(0, COUNT, 3):
            with chunk(backend, f"k{index}", SIZE) as obj:
                client.set(NAMES[index], encode_record(NAMES[index], obj, checksum=False))
        record = client.get(NAMES[4])
        assert isinstance(record, bytes)
        client.set(NAMES[4], record[:100] + b"?" + record[101:])
    found = await connector.batched_get(KEYS)
    right = [obj is not None and holds(obj, key) for obj, key in zip(found, KEYS, strict=True)]
    assert right == [index != 4 for index in range(COUNT)]


async def test_room_made_ahead_for_chunks_that_never_come_is_given_back(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    found = await connector.batched_get(["k0", "k1", *(f"absent{index}" for index in range(30))])
    assert backend.statistics().live_objects == 2
    release_all(list(found))
