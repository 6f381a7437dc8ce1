"""Connectors that were written for LMCache run without it, named in a URL, by configuration, or by their adapter."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import (
    CacheEngineKey,
    CacheMetadata,
    ConnectorConfig,
    ConnectorManager,
    Key,
    LayerCacheEngineKey,
    LocalCPUBackend,
    ManagedConnector,
    MemoryFormat,
    UnsupportedOperationError,
    compat,
    register_adapter,
)
from lmcache_connect.errors import (
    ConnectorFailureError,
    DuplicateSchemeError,
    InvalidArgumentError,
    PluginConstructionError,
    UnknownSchemeError,
)
from lmcache_connect.foreign.connector import ForeignConnector
from lmcache_connect.manager import default_registry
from lmcache_connect.testing.servers.redis import StoreServer

from ..adapters.lmcache_connect_redis.chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("lmcache_names")]

GUESTS = "tests.compat.guests"
MODEL = CacheMetadata("org/model", 2, 1, "bfloat16", (4, 2, 16, 2, 8), chunk_size=16)
KEYS: list[Key] = [
    CacheEngineKey("org/model", 2, 1, 0xAB, "bfloat16", {"lmcache.tag.tenant": "a"}),
    LayerCacheEngineKey("org/model", 2, 1, b"\x00\xff", "half", None, 3),
    "org/model@2@1@ff@bfloat16",
    "any other name",
]


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[LocalCPUBackend]:
    with LocalCPUBackend(8 << 20) as backend:
        yield backend
        gc.collect()
        now = backend.statistics()
        assert (now.reserved, now.live_objects, now.leaked_objects) == (0, 0, 0), now


def config(**settings: Any) -> ConnectorConfig:
    extra = settings.pop("extra_config", {}) | {
        "remote_storage_plugin.mystore.module_path": f"{GUESTS}.redis_store",
        "remote_storage_plugin.mystore.class_name": "MyStoreConnectorAdapter",
    }
    return ConnectorConfig.load(extra_config=extra, **settings)


def manager_for(backend: LocalCPUBackend, settings: ConnectorConfig | None = None) -> ConnectorManager:
    return ConnectorManager(local_cpu_backend=backend, config=settings, metadata=MODEL)


async def external(manager: ConnectorManager, module: str, name: str) -> tuple[ManagedConnector, Any]:
    connector = await manager.open_connector(f"external://h:0/{GUESTS}.{module}/?connector_name={name}")
    assert isinstance(connector.wrapped, ForeignConnector)
    return connector, connector.wrapped.foreign


async def works(connector: ManagedConnector, backend: LocalCPUBackend, keys: list[Key] = KEYS) -> None:
    for key in keys:
        name = key if isinstance(key, str) else key.to_string()
        assert not await connector.exists(key)
        assert await connector.get(key) is None
        with chunk(backend, name, 4096) as obj:
            await connector.put(key, obj)
            assert obj.get_ref_count() == 1
        assert await connector.exists(key)
        found = await connector.get(key)
        assert found is not None
        assert backend.owns(found)
        assert holds(found, name)


# ----------------------------------------------------------------------------------------- each way to load one


async def ways(manager: ConnectorManager, address: str, server: StoreServer) -> AsyncIterator[ManagedConnector]:
    from .guests.redis_store import MyStoreConnectorAdapter

    yield await manager.open_connector(f"external://{address}/{GUESTS}.redis_store/?connector_name=MyStoreConnector")
    server.flush()
    yield await manager.open_connector("plugin://mystore.one")
    server.flush()
    yield await manager.open_connector(f"mystore://{address}")  # the plug-in's adapter answers
    server.flush()
    adopted = ConnectorManager(local_cpu_backend=manager.local_cpu_backend, metadata=MODEL)
    async with adopted:
        adopted.register(MyStoreConnectorAdapter)
        yield await adopted.open_connector(f"mystore://{address}")


async def test_a_whole_connector_works_on_a_real_server_each_way_it_can_be_loaded(
    backend: LocalCPUBackend, valkey_server: StoreServer
) -> None:
    valkey_server.flush()
    address = valkey_server.url().removeprefix("redis://").partition("/")[0]
    settings = config(
        remote_storage_plugins=["mystore.one", "mystore"],
        extra_config={
            "remote_storage_plugin.mystore.one.address": f"redis://{address}",
            "remote_storage_plugin.mystore.one.module_path": f"{GUESTS}.redis_store",
            "remote_storage_plugin.mystore.one.class_name": "MyStoreConnector",
        },
    )
    async with manager_for(backend, settings) as manager:
        async for connector in ways(manager, address, valkey_server):
            await works(connector, backend)
            assert sorted(await connector.list()) == sorted(
                key if isinstance(key, str) else key.to_string() for key in KEYS
            )
            assert await connector.ping() == 0
            assert await connector.remove(KEYS[0])
            assert not await connector.exists(KEYS[0])
            found = await connector.batched_get(KEYS)
            assert [obj is not None for obj in found] == [False, True, True, True]
            for obj in found:
                if obj is not None:
                    obj.ref_count_down()


async def test_chunks_of_every_format_keep_their_shapes_dtypes_and_format(
    backend: LocalCPUBackend, valkey_server: StoreServer
) -> None:
    valkey_server.flush()
    address = valkey_server.url().removeprefix("redis://").partition("/")[0]
    url = f"external://{address}/{GUESTS}.redis_store/?connector_name=MyStoreConnector"
    async with manager_for(backend) as manager:
        connector = await manager.open_connector(url)
        cases: list[tuple[list[tuple[int, ...]], list[str], MemoryFormat]] = [
            ([(2, 4, 16, 16)], ["bfloat16"], MemoryFormat.KV_2LTD),
            ([(2, 4, 5, 16)], ["fp8_e5m2"], MemoryFormat.KV_2LTD),
            ([(1, 4, 16, 18)], ["half"], MemoryFormat.KV_MLA_FMT),
            ([(16, 2, 8)], ["float"], MemoryFormat.KV_T2D),
            ([(37,)], ["uint8"], MemoryFormat.BINARY_BUFFER),
        ]
        if compat.is_installed():  # LMCache itself has one number of tensor groups for the whole process
            cases.append(([(2, 3, 16, 4), (2, 1, 16, 8)], ["half", "uint8"], MemoryFormat.KV_2LTD))
        for shapes, dtypes, fmt in cases:
            obj = backend.allocate(shapes, dtypes, fmt)
            assert obj is not None
            with obj:
                obj.byte_array[:] = bytes(index % 251 for index in range(obj.get_size()))
                await connector.put("k", obj)
                found = await connector.get("k")
                assert found is not None
                with found:
                    assert found.metadata == obj.metadata
                    assert found.byte_array == obj.byte_array


async def test_an_adapter_answers_for_every_url_that_it_says_it_can_parse(
    backend: LocalCPUBackend, valkey_server: StoreServer
) -> None:
    from .guests.redis_store import MyStoreConnectorAdapter, PluginOnlyAdapter

    valkey_server.flush()
    address = valkey_server.url().removeprefix("redis://").partition("/")[0]
    async with manager_for(backend) as manager:
        with pytest.raises(UnknownSchemeError):
            await manager.open_connector(f"yourstore://{address}")
        manager.register(PluginOnlyAdapter())
        manager.register(MyStoreConnectorAdapter())
        await works(await manager.open_connector(f"yourstore://{address}"), backend)
        with pytest.raises(UnknownSchemeError):
            await manager.open_connector(f"anotherstore://{address}")
        with pytest.raises(DuplicateSchemeError):
            manager.register(MyStoreConnectorAdapter)


async def test_an_adapter_can_be_registered_for_the_whole_process(
    backend: LocalCPUBackend, valkey_server: StoreServer
) -> None:
    from .guests.redis_store import MyStoreConnectorAdapter

    valkey_server.flush()
    register_adapter(MyStoreConnectorAdapter)
    try:
        async with manager_for(backend) as manager:
            await works(await manager.open_connector(valkey_server.url().replace("redis", "mystore", 1)), backend)
    finally:
        default_registry.unregister("mystore")


async def test_a_class_and_an_adapter_that_derive_from_nothing_do(backend: LocalCPUBackend) -> None:
    settings = ConnectorConfig.load(
        remote_storage_plugins=["duck", "plain"],
        extra_config={
            "remote_storage_plugin.duck.module_path": f"{GUESTS}.duck",
            "remote_storage_plugin.duck.class_name": "DuckAdapter",
            "remote_storage_plugin.plain.module_path": f"{GUESTS}.duck",
            "remote_storage_plugin.plain.class_name": "Duck",
        },
    )
    async with manager_for(backend, settings) as manager:
        for url in ("duck://pond", "plugin://duck", "plugin://plain"):
            connector = await manager.open_connector(url)
            await works(connector, backend)
            assert await connector.list() == [key if isinstance(key, str) else key.to_string() for key in KEYS]
        duck, _ = await external(manager, "duck", "Duck")
        await works(duck, backend)


@pytest.mark.usefixtures("names_in_its_place")
async def test_one_that_wraps_what_lmcaches_own_function_makes_reaches_a_managed_connector(
    backend: LocalCPUBackend,
) -> None:
    settings = ConnectorConfig.load(extra_config={"inner": "memory://inner"})
    async with manager_for(backend, settings) as manager:
        connector, counting = await external(manager, "wrapping", "Counting")
        assert isinstance(counting.inner.managed, ManagedConnector)
        await works(connector, backend)
        assert counting.calls[:4] == ["exists", "get", "put", "exists"]
        assert sorted(await connector.list()) == sorted(str(key) for key in KEYS)


# ---------------------------------------------------------------------------------------------- careless ones


@pytest.mark.parametrize("name", ["NoSuper", "Unlisted", "Keeper", "Compacting", "Holes"])
async def test_carelessness_does_no_harm(backend: LocalCPUBackend, name: str) -> None:
    async with manager_for(backend) as manager:
        connector, guest = await external(manager, "careless", name)
        await works(connector, backend)
        assert not any(obj.is_valid() for obj in guest.kept)
        found = await connector.batched_get(["missing", KEYS[3], "gone", KEYS[0]])
        assert [obj is not None for obj in found] == [False, True, False, True]
        assert holds(found[1], "any other name")
        assert holds(found[3], KEYS[0].to_string())  # type: ignore[union-attr]
        assert await asyncio.to_thread(connector.exists_sync, KEYS[0])
        assert await connector.batched_async_contains("lookup", [KEYS[0], KEYS[1], "missing", KEYS[2]]) == 2


async def test_a_list_that_is_none_is_empty_and_one_that_is_missing_is_said_to_be(backend: LocalCPUBackend) -> None:
    async with manager_for(backend) as manager:
        nothing, _ = await external(manager, "careless", "NoSuper")
        assert await nothing.list() == []
        unable, _ = await external(manager, "careless", "Unlisted")
        with pytest.raises(UnsupportedOperationError, match="list"):
            await unable.list()
        with pytest.raises(UnsupportedOperationError, match="remove"):
            await unable.remove("k")
        assert not unable.support_ping()


@pytest.mark.usefixtures("names_in_its_place")
async def test_a_class_without_exists_sync_does(backend: LocalCPUBackend) -> None:
    async with manager_for(backend) as manager:
        connector, _ = await external(manager, "no_exists_sync", "NoExistsSync")
        await works(connector, backend)


async def test_a_class_that_lacks_a_method_is_refused_with_the_methods_name(backend: LocalCPUBackend) -> None:
    async with manager_for(backend) as manager:
        with pytest.raises(PluginConstructionError, match="put"):
            await external(manager, "careless", "Incomplete")


async def test_a_get_that_finds_no_room_waits_for_it_instead_of_being_a_miss(backend: LocalCPUBackend) -> None:
    async with manager_for(backend) as manager:
        for module, name in (("duck", "Duck"), ("careless", "NoSuper")):  # one returns None, the other stumbles
            connector, _ = await external(manager, module, name)
            with chunk(backend, "k", 1 << 20) as obj:
                await connector.put("k", obj)
            held = [each for _ in range(8) if (each := backend.allocate((1 << 20,), "uint8")) is not None]
            getting = asyncio.create_task(connector.get("k"))
            while not backend.statistics().waiters:
                await asyncio.sleep(0)
            held.pop().ref_count_down()
            assert holds(await getting, "k")
            for each in held:
                each.ref_count_down()


# ------------------------------------------------------------------------------------------- what they are told


@pytest.mark.parametrize("name", ["FullChunks", "ByHand"])
async def test_payloads_alone_are_chunks_of_the_model_and_partial_ones_are_cut(
    backend: LocalCPUBackend, name: str
) -> None:
    async with manager_for(backend) as manager:
        connector, _ = await external(manager, "full_chunks", name)
        for tokens in (16, 5):
            full = MODEL.chunk(tokens)
            obj = backend.allocate_chunk(full)
            assert obj is not None
            with obj:
                obj.byte_array[:] = bytes(index % 253 for index in range(full.nbytes))
                await connector.put("k", obj)
                found = await connector.get("k")
                assert found is not None
                with found:
                    assert found.metadata == full
                    assert found.byte_array == obj.byte_array


async def test_a_buffer_of_the_connectors_own_becomes_a_chunk_of_the_backend(backend: LocalCPUBackend) -> None:
    async with manager_for(backend) as manager:
        connector, _ = await external(manager, "full_chunks", "Buffers")
        await works(connector, backend)


@pytest.mark.usefixtures("names_in_its_place")
async def test_a_connector_that_needs_the_model_says_so_where_the_manager_knows_none(
    backend: LocalCPUBackend,
) -> None:
    async with ConnectorManager(local_cpu_backend=backend) as manager:
        connector, _ = await external(manager, "careless", "Demanding")
        with pytest.raises(InvalidArgumentError, match=r"asks for meta_shapes.*metadata=CacheMetadata"):
            await connector.get("k")


@pytest.mark.usefixtures("names_in_its_place")
async def test_classes_that_were_loaded_go_on_working_when_the_names_are_gone(backend: LocalCPUBackend) -> None:
    async with manager_for(backend) as manager:
        connector, _ = await external(manager, "careless", "NoSuper")
        compat.uninstall()
        await works(connector, backend, KEYS[:2])
        again, _ = await external(manager, "careless", "NoSuper")
        await works(again, backend, KEYS[2:])
        compat.install()


async def test_a_failure_of_a_guest_is_typed_and_names_it(backend: LocalCPUBackend) -> None:
    async with manager_for(backend) as manager:
        connector, guest = await external(manager, "careless", "NoSuper")
        guest.stored = None
        with pytest.raises(ConnectorFailureError, match=r"NoSuper\.get raised AttributeError"):
            await connector.get("k")
        guest.stored = {}


async def test_a_guest_stores_a_read_only_chunk_and_fills_a_hot_cache(backend: LocalCPUBackend) -> None:
    url = f"external://h:0/{GUESTS}.careless/?connector_name=Compacting"
    async with manager_for(backend) as manager:
        guest = await manager.open_connector(url)
        hot = await manager.open_connector(f"hot+{url}&hot_bytes=1MiB")
        for key in ("a", "b"):
            with chunk(backend, key, 4096) as obj:
                await hot.put(key, obj)
        cache = hot.find_hot_cache()
        assert cache is not None
        cache.clear()
        got = await hot.get("a")
        assert got is not None
        assert len(cache) == 1  # it was received where the cache keeps it
        got.ref_count_up()
        with got:
            await guest.put("a", got)
        assert holds(got, "a")
        assert holds(await guest.get("a"), "a")
