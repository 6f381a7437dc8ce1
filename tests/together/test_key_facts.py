"""What stores say of their chunks, without the payloads, and how they are told to forget them."""

from __future__ import annotations

import math
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import xxhash

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector, MemoryObj
from lmcache_connect.contract import KeyFacts
from lmcache_connect.errors import InvalidArgumentError, UnsupportedOperationError
from lmcache_connect.testing import payload
from lmcache_connect.testing.servers.redis_store import RedisStore

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

KEY = "the key"
SMALL, LARGE, SPREAD = 5000, 5 * (1 << 20), 9 * (1 << 20) + 5


def chunk(backend: LocalCPUBackend, nbytes: int) -> MemoryObj:
    made = backend.allocate((nbytes,), "uint8")
    assert made is not None
    with made.byte_array as view:
        view[:] = payload(KEY, nbytes)
    return made


@pytest_asyncio.fixture(params=["single", "striped", "lmcache", "cluster", "ring", "spread", "rclone", "memory", "hot"])
async def store(
    request: pytest.FixtureRequest, redis_sources: object, local_cpu_backend: LocalCPUBackend
) -> AsyncIterator[tuple[str, ManagedConnector]]:
    name = str(request.param)
    if name == "rclone":
        url = request.getfixturevalue("rclone_server").url(prefix=secrets.token_hex(4))
    elif name == "memory":
        url = f"memory://facts-{secrets.token_hex(4)}"
    else:
        topology = {"cluster": "cluster", "ring": "ring", "spread": "ring"}.get(name, "single")
        redis: RedisStore = request.getfixturevalue(f"redis_{topology}")
        url = redis.url(options={"lmcache": {"layout": "lmcache"}, "spread": {"spread": "3"}}.get(name))
        if name == "hot":
            url = f"hot+{url}"
    async with ConnectorManager(url, local_cpu_backend=local_cpu_backend) as manager:
        yield name, manager.create_connector()


async def test_a_store_says_how_long_a_chunk_is_and_what_it_holds(
    store: tuple[str, ManagedConnector], local_cpu_backend: LocalCPUBackend
) -> None:
    name, connector = store
    nbytes = {"striped": LARGE, "spread": SPREAD}.get(name, SMALL)
    with chunk(local_cpu_backend, nbytes) as obj:
        await connector.put(KEY, obj)
    plain, missing = await connector.describe([KEY, "no such key"])
    assert missing is None
    assert plain is not None
    [facts] = await connector.describe([KEY], records=True)
    assert facts is not None
    assert facts.is_sound
    if name == "memory":
        assert facts == KeyFacts()  # it says whether the key is there, as any connector of another author does
        return
    assert plain.stored_bytes is not None
    assert plain.stored_bytes >= nbytes
    assert facts.nbytes == nbytes
    if name != "rclone":
        assert plain.ttl == facts.ttl == math.inf
    else:
        assert facts.age is not None
        assert facts.age < 60
    if name != "lmcache":
        whole = payload(KEY, nbytes)
        assert facts.sums[0].start == 0
        assert facts.sums[-1].end == nbytes
        for start, end, told in facts.sums:
            assert told == xxhash.xxh3_64_intdigest(whole[start:end])
    assert facts.metadata is not None
    assert facts.metadata.shapes == ((nbytes,),)


async def test_a_store_forgets_a_chunk_when_it_is_told_to(
    store: tuple[str, ManagedConnector], local_cpu_backend: LocalCPUBackend
) -> None:
    name, connector = store
    nbytes = {"striped": LARGE, "spread": SPREAD}.get(name, SMALL)
    with chunk(local_cpu_backend, nbytes) as obj:
        await connector.put(KEY, obj)
    if name in {"rclone", "memory"}:
        assert not connector.support_expiry()
        with pytest.raises(UnsupportedOperationError):
            await connector.expire([KEY], [60])
        return
    assert connector.support_expiry()
    assert await connector.expire([KEY, "no such key"], [60, 60]) == [True, False]
    [facts] = await connector.describe([KEY])
    assert facts is not None
    assert facts.ttl is not None
    assert 50 < facts.ttl <= 60
    got = await connector.get(KEY)
    assert got is not None
    with got, got.byte_array as view:
        assert bytes(view) == payload(KEY, nbytes)
    with pytest.raises(InvalidArgumentError):
        await connector.expire([KEY], [0])
