"""Tensors and arrays in and out: what is copied, whose memory they lie in, and how long."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import numpy
import pytest
import pytest_asyncio

from lmcache_connect import ChunkMissingError, ConnectorManager, LocalCPUBackend, ManagedConnector, chunk_of
from lmcache_connect.errors import InvalidArgumentError, InvalidShapeError

pytestmark = pytest.mark.asyncio
ARRAY = numpy.arange(2 * 4 * 16 * 8, dtype="f2").reshape(2, 4, 16, 8)


@pytest_asyncio.fixture
async def connector(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        yield manager.create_connector()


async def test_an_array_comes_out_as_it_went_in_and_needs_no_room_to_be_put(
    connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    await connector.put_array("a", ARRAY)
    assert local_cpu_backend.statistics().allocations == 0
    found = await connector.get_array("a")
    assert found is not None
    assert (found.dtype, found.shape, found.flags.writeable) == (ARRAY.dtype, ARRAY.shape, True)
    assert (found == ARRAY).all()
    assert await connector.get_array("absent") is None


async def test_an_array_and_its_views_keep_their_room_until_the_last_is_gone(
    connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    await connector.put_array("a", ARRAY)
    found = await connector.get_array("a")
    assert found is not None
    slice_of_it = found[1, 2]
    del found
    gc.collect()
    others = [await connector.get_array("a") for _ in range(20)]
    assert (slice_of_it == ARRAY[1, 2]).all()
    assert local_cpu_backend.statistics().live_objects == 0
    assert local_cpu_backend.statistics().blocks == 21
    del slice_of_it, others
    assert local_cpu_backend.statistics().reserved == 0


async def test_what_a_hot_cache_has_is_a_read_only_array(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(f"hot+{valkey_url}?hot_bytes=1MiB", None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        array = ARRAY.copy()
        await connector.put_array("a", array)
        array[:] = 0  # the cache has a copy
        found = await connector.get_array("a")
        assert found is not None
        assert not found.flags.writeable
        assert (found == ARRAY).all()
        assert connector.metrics.hot_cache.hits == 1
        del found


async def test_an_array_of_a_dtype_that_numpy_lacks_is_refused_and_nothing_is_held(
    connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    with await local_cpu_backend.allocate_async((8,), "bfloat16") as chunk:
        await connector.put("b", chunk)
    with pytest.raises(InvalidShapeError, match="numpy has no dtype bfloat16"):
        await connector.get_array("b")
    assert local_cpu_backend.statistics().live_objects == 0


async def test_a_chunk_of_several_groups_is_refused_whole(
    connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    with await local_cpu_backend.allocate_async([(8,), (4,)], ["uint8", "uint8"]) as chunk:
        await connector.put("b", chunk)
    with pytest.raises(InvalidShapeError, match=r"2 tensor groups; get\(\) it"):
        await connector.get_array("b")


async def test_a_batch_is_put_from_arrays_and_got_with_holes(connector: ManagedConnector) -> None:
    await connector.batched_put(["a", "c"], [chunk_of(ARRAY), chunk_of(ARRAY + 1)])
    slots = await connector.batched_get(["a", "b", "c"])
    assert [slot is not None for slot in slots] == [True, False, True]
    for slot, expected in zip(slots, (ARRAY, None, ARRAY + 1), strict=True):
        if slot is not None:
            with slot:
                assert (slot.numpy() == expected).all()


@pytest.mark.parametrize("nbytes", [1000, 9 << 20], ids=["small", "in pieces"])
@pytest.mark.parametrize(
    "store",
    ["memory://tensors", "mock://1/?write_throughput=9", "audit+memory://tensors", "hot+memory://tensors", "redis",
     "rclone"],
)  # fmt: skip
async def test_every_connector_puts_a_read_only_array_alone_and_in_a_batch(
    store: str, nbytes: int, local_cpu_backend: LocalCPUBackend, request: pytest.FixtureRequest
) -> None:
    url = store
    if store == "redis":
        url = request.getfixturevalue("valkey_url")
    elif store == "rclone":
        url = request.getfixturevalue("rclone_server").url("tensors")
    array = numpy.random.default_rng(nbytes).integers(0, 255, nbytes, "u1")
    array.flags.writeable = False
    async with ConnectorManager(url, None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        await connector.put_array("a", array)
        await connector.batched_put(["b", "c"], [chunk_of(array), chunk_of(array[1:])])
        for key, expected in (("a", array), ("b", array), ("c", array[1:])):
            found = await connector.get_array(key)
            assert found is not None
            assert (found == expected).all() or store.startswith("mock")  # which keeps no bytes
            del found


async def test_an_array_that_is_not_contiguous_is_refused_before_the_store_is_asked(
    connector: ManagedConnector,
) -> None:
    with pytest.raises(InvalidArgumentError, match="ascontiguousarray"):
        await connector.put_array("a", ARRAY.T)
    assert "put" not in connector.statistics()


async def test_chunk_gives_the_chunk_and_releases_it_at_the_end(
    connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    await connector.put_array("a", ARRAY)
    async with connector.chunk("a") as chunk:
        assert (chunk.numpy() == ARRAY).all()
    assert not chunk.is_valid()
    with pytest.raises(RuntimeError, match="of the block"):
        async with connector.chunk("a"):
            raise RuntimeError("of the block")
    assert local_cpu_backend.statistics().live_objects == 0


async def test_chunk_of_a_missing_key_raises_and_names_the_key(connector: ManagedConnector) -> None:
    with pytest.raises(ChunkMissingError, match=r"no chunk was found under the key 'absent'") as raised:
        async with connector.chunk("absent"):
            pytest.fail("the block ran")
    assert raised.value.key == "absent"
    assert isinstance(raised.value, LookupError)


async def test_threads_have_the_same(connector: ManagedConnector) -> None:
    def work() -> None:
        connector.sync.put_array("a", ARRAY)
        found = connector.sync.get_array("a")
        assert found is not None
        assert (found == ARRAY).all()
        assert connector.sync.get_array("absent") is None
        with connector.sync.chunk("a") as chunk:
            assert (chunk.numpy() == ARRAY).all()
        with pytest.raises(ChunkMissingError), connector.sync.chunk("absent"):
            pytest.fail("the block ran")

    await asyncio.to_thread(work)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn"])
async def test_a_tensor_comes_out_as_it_went_in_without_a_copy(
    connector: ManagedConnector, local_cpu_backend: LocalCPUBackend, dtype: str
) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.arange(1024).reshape(2, 4, 16, 8).to(getattr(torch, dtype))
    await connector.put_tensor("t", tensor)
    assert local_cpu_backend.statistics().allocations == 0
    found: Any = await connector.get_tensor("t")
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found.float(), tensor.float())
    assert await connector.get_tensor("absent") is None
    part = found[1]
    del found
    gc.collect()
    others = [await connector.get_tensor("t") for _ in range(20)]
    assert torch.equal(part.float(), tensor[1].float())
    assert local_cpu_backend.statistics().blocks == 21
    del part, others
    assert local_cpu_backend.statistics().reserved == 0


@pytest.mark.torch
@pytest.mark.parametrize("elements", [8, 1 << 20])
async def test_a_tensor_from_a_hot_cache_is_a_copy_that_its_caller_may_change(
    valkey_url: str, local_cpu_backend: LocalCPUBackend, elements: int
) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    async with ConnectorManager(f"hot+{valkey_url}?hot_bytes=8MiB", None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        await connector.put_tensor("t", torch.ones(elements))
        first: Any = await connector.get_tensor("t")
        first.zero_()
        assert torch.equal(await connector.get_tensor("t"), torch.ones(elements))
        assert torch.equal(await asyncio.to_thread(connector.sync.get_tensor, "t"), torch.ones(elements))
