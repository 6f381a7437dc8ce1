"""One bad item in a batch is a miss in its own slot, counted by its reason, however often it is asked for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from typing import Any, Final

import pytest

from lmcache_connect import (
    ArenaExhaustedError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    register_adapter,
)
from lmcache_connect.errors import AllocationTimeoutError, ConnectorFailureError
from lmcache_connect.manager import default_registry
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer
from lmcache_reference_connectors.redis import RedisReferenceAdapter

from . import keepers
from .lmcache_connect_redis.chunks import chunk, holds

pytestmark = pytest.mark.asyncio

MIB: Final = 1 << 20
CONFIG: Final = ConnectorConfig.load(retries=0, allocate_timeout=0.05)

STORES: Final = (
    "framed",
    "pieces",
    "two keys",
    "plain-redis",
    "s3",
    "s3 in ranges",
    "memory",
    "hot",
    "foreign",
    "batching",
)

OTHER_TYPES: Final = ("LPUSH n v", "HSET n f v", "SADD n v", "ZADD n 1 v", "XADD n * f v")


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    name = f"bad-{secrets.token_hex(4)}"

    def redis() -> str:
        return str(request.getfixturevalue("valkey_url"))

    def s3(**options: object) -> str:
        return str(request.getfixturevalue("moto_server").url(name, **options))

    match request.param:
        case "framed":
            return redis()
        case "pieces":
            return f"{redis()}?stripe=262144"
        case "two keys":
            return f"{redis()}?layout=lmcache"
        case "plain-redis":
            return redis().replace("redis://", "plain-redis://")
        case "s3":
            return s3()
        case "s3 in ranges":
            return s3(range_size=1 << 20)
        case "hot":
            return f"hot+{redis()}?hot_bytes=1MiB"
        case "foreign":
            return "external://h:0/tests.adapters.keepers/?connector_name=Keeper"
        case "batching":
            return "external://h:0/tests.adapters.keepers/?connector_name=BatchKeeper"
        case _:
            return f"memory://{name}"


@pytest.fixture(autouse=True)
def other_connectors() -> Iterator[None]:
    register_adapter(RedisReferenceAdapter)
    yield
    default_registry.unregister("plain-redis")
    keepers.KEPT.clear()


async def fill(url: str, *chunks: tuple[str, int]) -> None:
    async with ConnectorManager(url, config=CONFIG) as manager:
        connector = await manager.open_connector()
        for key, nbytes in chunks:
            with chunk(manager.local_cpu_backend, key, nbytes) as obj:
                await connector.put(key, obj)


async def got(connector: ManagedConnector, keys: str) -> str:
    """The keys whose chunks have come, in the place of each."""
    found = await connector.batched_get(list(keys))
    return "".join(key if holds(obj, key) else "-" for obj, key in zip(found, keys, strict=True))


async def test_a_chunk_that_is_larger_than_the_memory_is_a_miss_in_its_own_slot(url: str) -> None:
    await fill(url, ("a", 4096), ("b", 3 * MIB), ("c", 4096))
    with LocalCPUBackend(MIB) as backend:
        async with ConnectorManager(url, None, backend, CONFIG) as manager:
            connector = await manager.open_connector()
            for calls in range(1, 3):
                assert await got(connector, "abc") == "a-c"
                assert await connector.exists("b")
                assert connector.statistics()["batched_get"].misses == {"corrupt:too_large": calls}
            with pytest.raises(ArenaExhaustedError):
                await connector.get("b")
        assert backend.statistics().reserved == 0


async def test_a_batch_without_room_for_all_brings_the_prefix_that_fits(url: str) -> None:
    keys = "abcdefghijkl"
    await fill(url, *[(key, MIB) for key in keys])
    with LocalCPUBackend(4 * MIB) as backend:
        async with ConnectorManager(url, None, backend, CONFIG) as manager:
            connector = await manager.open_connector()
            for calls in range(1, 3):
                async with asyncio.timeout(10):
                    prefix = "abcde" if "hot" in url else "abcd"  # its memory lies beside the arena
                    assert await got(connector, keys) == prefix + "-" * (len(keys) - len(prefix))
                misses = (len(keys) - len(prefix)) * calls
                assert connector.statistics()["batched_get"].misses == {"no_room": misses}
            kept = backend.allocate((4 * MIB,), "uint8")
            assert kept is not None
            with kept:
                if "hot" not in url:  # whose memory is its own
                    with pytest.raises(AllocationTimeoutError):
                        await connector.batched_get(list(keys))
        assert backend.statistics().reserved == 0


@pytest.mark.parametrize("store", ["redis", "redis lmcache", "s3", "s3 in ranges"])
async def test_a_value_above_the_limit_is_a_miss_in_its_own_slot(request: pytest.FixtureRequest, store: str) -> None:
    prefix = f"limit-{secrets.token_hex(4)}"
    if store.startswith("redis"):
        urls = [
            f"{request.getfixturevalue('valkey_url')}?max_value_bytes={limit}&pool_size=1"
            + ("&layout=lmcache" if "lmcache" in store else "&stripe=0")
            for limit in (8 * MIB, 8192)
        ]
    else:
        server = request.getfixturevalue("moto_server")
        ranges = {"range_size": 1 << 20} if "ranges" in store else {}
        urls = [server.url(prefix, max_value_bytes=limit, **ranges) for limit in (8 * MIB, 8192)]
    await fill(urls[0], ("a", 4096), ("b", 16384), ("c", 4096), ("d", 3 * MIB), ("e", 4096))
    async with ConnectorManager(urls[1], config=CONFIG) as manager:
        connector = await manager.open_connector()
        for calls in range(1, 3):
            assert await got(connector, "abcde") == "a-c-e"
            assert connector.statistics()["batched_get"].misses == {"corrupt:too_large": 2 * calls}
        assert await connector.get("b") is None
        assert connector.statistics()["get"].misses == {"corrupt:too_large": 1}
        assert await connector.batched_exists(["b", "d"]) == [True, True]


@pytest.mark.parametrize("scheme", ["redis", "redis lmcache", "plain-redis"])
async def test_a_key_that_holds_another_type_is_a_miss_in_its_own_slot(
    valkey_server: ValkeyServer, valkey_url: str, scheme: str
) -> None:
    scheme, _, layout = scheme.partition(" ")
    url = valkey_url.replace("redis://", f"{scheme}://") + (f"?layout={layout}" if layout else "")
    reasons = {"corrupt:type", "corrupt:short"} if scheme == "plain-redis" else {"absent"}
    if not layout and scheme == "redis":
        reasons |= {"corrupt:replaced"}
    keys = "abcdefg"
    await fill(url, *[(key, 4096) for key in keys])
    with valkey_server.client() as raw:
        for key, command in zip("bcdef", OTHER_TYPES, strict=True):
            for name in (f"{key}metadata", f"{key}kv_bytes") if layout else chunk_names("", [key]):
                raw.delete(name)
                raw.execute_command(*[name if word == "n" else word for word in command.split()])
    async with ConnectorManager(url, config=CONFIG) as manager:
        connector = manager.create_connector()
        for calls in range(1, 3):
            assert await got(connector, keys) == "a-----g"
            misses = connector.statistics()["batched_get"].misses
            assert sum(misses.values()) == 5 * calls, misses
            assert set(misses) == reasons
    with valkey_server.client() as raw:  # what is not ours stays
        assert raw.dbsize() == (14 if layout else 7)


async def test_the_mock_store_brings_the_prefix_that_fits() -> None:
    with LocalCPUBackend(4 * MIB) as backend:
        async with ConnectorManager("mock://1", None, backend, CONFIG) as manager:
            connector = manager.create_connector()
            for key in "abcde":
                with chunk(backend, key, MIB) as obj:
                    await connector.put(key, obj)
            assert await got(connector, "abcde") == "abcd-"
            assert connector.statistics()["batched_get"].misses == {"no_room": 1}


@pytest.mark.parametrize("name", ["Keeper", "BatchKeeper"])
async def test_keys_for_which_a_foreign_connector_raises_are_misses_unless_all_are(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"external://h:0/tests.adapters.keepers/?connector_name={name}"
    await fill(url, *[(key, 4096) for key in "abc"])
    async with ConnectorManager(url, config=CONFIG) as manager:
        connector = await manager.open_connector()
        wrapped: Any = connector.wrapped
        wrapped.foreign.raises = {"b", "d"}
        for calls in range(1, 3):
            assert await got(connector, "abcde") == "a-c--"
            assert connector.statistics()["batched_get"].misses == {"failed:LookupError": 2 * calls, "absent": calls}
        assert [text for text in caplog.messages if "bad_item" in text] == [
            "bad_item connector=ForeignConnector failure=LookupError error=no such shelf: b"
        ]
        with pytest.raises(ConnectorFailureError, match="no such shelf"):
            await got(connector, "bd")
        wrapped.foreign.raises = set(map(str, range(100)))
        asked = wrapped.foreign.asked
        with pytest.raises(ConnectorFailureError, match="no such shelf"):
            await connector.batched_get([*map(str, range(100)), "a"])
        assert wrapped.foreign.asked - asked < 64


@pytest.mark.parametrize("name", ["Keeper", "BatchKeeper"])
@pytest.mark.parametrize("answered", [1, 2, 3])
async def test_a_foreign_store_that_fails_amid_a_batch_is_an_error_and_its_keys_are_no_misses(
    name: str, answered: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"external://h:0/tests.adapters.keepers/?connector_name={name}"
    await fill(url, *[(key, 4096) for key in "abcd"])
    async with ConnectorManager(url, config=CONFIG) as manager:
        connector = await manager.open_connector()
        wrapped: Any = connector.wrapped
        wrapped.foreign.fails_from = answered
        with pytest.raises(ConnectorFailureError, match="the shelves are closed"):
            await got(connector, "abcd")
        assert connector.statistics()["batched_get"].misses == {}
        assert not [text for text in caplog.messages if "bad_item" in text]
        wrapped.foreign.fails_from = None
        assert await got(connector, "abcd") == "abcd"
