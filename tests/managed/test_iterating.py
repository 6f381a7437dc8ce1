"""Any number of keys, got and put in windows that fit the memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import numpy
import pytest
import pytest_asyncio

from lmcache_connect import (
    ArenaExhaustedError,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    StoreUnavailableError,
    chunk_of,
)
from lmcache_connect.errors import InvalidArgumentError, InvalidKeyError
from lmcache_connect.testing import ValkeyServer

pytestmark = pytest.mark.asyncio
CHUNK = 64 << 10
NUMBER = 300


def array(number: int) -> numpy.ndarray[Any, Any]:
    return numpy.full(CHUNK // 8, number)


def keys(count: int = NUMBER) -> list[str]:
    return [f"k{number}" for number in range(count)]


@pytest.fixture
def arena() -> Iterator[LocalCPUBackend]:
    """Room for ten chunks."""
    with LocalCPUBackend(10 * CHUNK) as arena:
        yield arena
        gc.collect()
        now = arena.statistics()
        assert (now.live_objects, now.reserved, now.leaked_objects) == (0, 0, 0)


@pytest_asyncio.fixture
async def connector(valkey_url: str, arena: LocalCPUBackend) -> AsyncIterator[ManagedConnector]:
    settings = {"allocate_timeout": 0.3, "operation_timeout": 5.0}
    async with ConnectorManager(valkey_url, None, arena, settings) as manager:
        yield manager.create_connector()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


# ------------------------------------------------------------------------------------------------- getting


async def test_far_more_chunks_than_fit_the_arena_come_in_order_with_holes_as_none(
    connector: ManagedConnector, arena: LocalCPUBackend
) -> None:
    present = {f"k{number}" for number in range(0, NUMBER, 3)}
    await connector.put_all((f"k{number}", chunk_of(array(number))) for number in range(0, NUMBER, 3))
    told: list[Any] = []
    most = 0
    seen = []
    async for key, chunk in connector.iterate(keys(), told.append):
        seen.append(key)
        assert (chunk is not None) is (key in present)
        if chunk is not None:
            assert (chunk.numpy() == array(int(key[1:]))).all()
        most = max(most, arena.statistics().reserved)
    assert seen == keys()
    assert most <= arena.statistics().capacity // 2
    assert [progress.done for progress in told] == list(range(1, NUMBER + 1))
    assert told[-1] == (NUMBER, NUMBER, len(present), len(present) * CHUNK)


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_any_number_of_keys_is_read_as_they_are_needed(connector: ManagedConnector, count: int) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"absent{read}"

    done = 0
    chunks = connector.iterate(endless(), None)
    async with aclosing(chunks):
        async for _, chunk in chunks:
            assert chunk is None
            done += 1
            if done == count:
                break
    assert read <= count + 2 * 1024


async def test_what_a_scan_finds_is_iterated_over(connector: ManagedConnector) -> None:
    await connector.put_all((key, chunk_of(array(7))) for key in keys(30))
    found = {key async for key, chunk in connector.iterate(connector.scan("k")) if chunk is not None}
    assert found == set(keys(30))


async def test_a_chunk_is_released_when_the_loop_goes_on_unless_it_was_kept(
    connector: ManagedConnector, arena: LocalCPUBackend
) -> None:
    await connector.put_all((key, chunk_of(array(7))) for key in keys(6))
    kept: list[MemoryObj] = []
    all_of_them: list[MemoryObj] = []
    async for key, chunk in connector.iterate(keys(6)):
        assert chunk is not None
        all_of_them.append(chunk)
        if key == "k2":
            chunk.ref_count_up()
            kept.append(chunk)
        elif key == "k3":
            chunk.ref_count_down()  # released early, as `with chunk:` does
    assert [chunk.is_valid() for chunk in all_of_them] == [False, False, True, False, False, False]
    assert (kept[0].numpy() == array(7)).all()
    kept[0].ref_count_down()


@pytest.mark.parametrize("turns", [1, 2, 5])
async def test_leaving_the_loop_leaks_nothing(connector: ManagedConnector, arena: LocalCPUBackend, turns: int) -> None:
    await connector.put_all((key, chunk_of(array(7))) for key in keys(30))
    done = 0
    async for _ in connector.iterate(keys(30)):
        done += 1
        if done == turns:
            break
    await until(lambda: arena.statistics().reserved == 0 and connector.in_flight == 0)
    with pytest.raises(RuntimeError, match="of the loop"):
        async for _ in connector.iterate(keys(30)):
            raise RuntimeError("of the loop")
    await until(lambda: arena.statistics().reserved == 0 and connector.in_flight == 0)


async def test_cancelling_the_reader_leaks_nothing(connector: ManagedConnector, arena: LocalCPUBackend) -> None:
    await connector.put_all((key, chunk_of(array(7))) for key in keys(30))

    async def read() -> None:
        async for _ in connector.iterate(keys(30)):
            await asyncio.sleep(0)

    for turns in range(60):
        reader = asyncio.ensure_future(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        await until(lambda: arena.statistics().reserved == 0 and connector.in_flight == 0)


async def test_while_the_reader_has_one_window_the_next_one_comes(
    connector: ManagedConnector, arena: LocalCPUBackend
) -> None:
    await connector.put_all((key, chunk_of(array(7))) for key in keys(30))
    async with aclosing(connector.iterate(keys(30))) as chunks:
        for _ in range(3):  # windows of one, and of two
            await anext(chunks)
        await until(lambda: arena.statistics().live_objects == 3)  # the reader's, and two of the window ahead


async def test_where_others_hold_the_arena_a_chunk_is_never_taken_for_a_miss(
    connector: ManagedConnector, arena: LocalCPUBackend
) -> None:
    await connector.put_all((key, chunk_of(array(int(key[1:])))) for key in keys(20))
    held = [arena.allocate((CHUNK,), "uint8") for _ in range(9)]
    found = 0
    async for key, chunk in connector.iterate(keys(20)):
        assert chunk is not None, key
        assert (chunk.numpy() == array(int(key[1:]))).all()
        found += 1
    assert found == 20
    last = arena.allocate((CHUNK,), "uint8")
    with pytest.raises(ArenaExhaustedError):
        async for _ in connector.iterate(keys(20)):
            pytest.fail("there was no room")
    for obj in (*held, last):
        assert obj is not None
        obj.ref_count_down()


async def test_a_failure_of_the_store_and_of_the_keys_are_raised_where_they_come(arena: LocalCPUBackend) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, arena, {"retries": 0}) as manager:
            connector = manager.create_connector()
            await connector.put_all((key, chunk_of(array(7))) for key in keys(30))
            seen = 0
            with pytest.raises(StoreUnavailableError):
                async for _ in connector.iterate(keys(30)):
                    seen += 1
                    server.kill()
            assert 1 <= seen < 30

    async with ConnectorManager("memory://keys", None, arena) as manager:
        connector = manager.create_connector()
        with pytest.raises(InvalidKeyError):
            async for _ in connector.iterate(["fine", ""]):
                pass
        wrongs: list[Any] = ["one-key", b"bytes", 7, None]
        for wrong in wrongs:
            with pytest.raises(InvalidArgumentError, match=r"For one (key )?pass \[key\]"):
                connector.iterate(wrong)
            with pytest.raises(InvalidArgumentError, match=r"For one (key )?pass \[key\]"):
                connector.sync.iterate(wrong)
        assert [key async for key, _ in connector.iterate(list[str]())] == []


async def test_another_loop_and_threads_iterate_as_well(connector: ManagedConnector, arena: LocalCPUBackend) -> None:
    await connector.put_all((key, chunk_of(array(int(key[1:])))) for key in keys(60))

    async def elsewhere() -> int:
        return sum([1 async for _, chunk in connector.iterate(keys(70)) if chunk is not None])

    def in_a_thread() -> int:
        found = 0
        told: list[Any] = []
        for key, chunk in connector.sync.iterate(keys(70), told.append):
            if chunk is not None:
                assert (chunk.numpy() == array(int(key[1:]))).all()
                found += 1
        assert told[-1] == (70, 70, 60, 60 * CHUNK)
        for _ in connector.sync.iterate(connector.sync.scan("k")):
            break
        assert arena.statistics().reserved == 0
        return found

    assert await asyncio.to_thread(asyncio.run, elsewhere()) == 60
    assert await asyncio.to_thread(in_a_thread) == 60


# ------------------------------------------------------------------------------------------------- putting


async def test_a_generator_that_releases_each_chunk_when_it_goes_on_puts_more_than_fits(
    connector: ManagedConnector, arena: LocalCPUBackend
) -> None:
    async def made() -> AsyncIterator[tuple[str, MemoryObj]]:
        for number in range(NUMBER):
            with await arena.allocate_async((CHUNK // 8,), "int64", timeout=10) as chunk:
                chunk.numpy()[:] = number
                yield f"k{number}", chunk

    told: list[Any] = []
    assert await connector.put_all(made(), told.append) == NUMBER
    assert told[-1] == (NUMBER, None, NUMBER, NUMBER * CHUNK)
    async for key, chunk in connector.iterate(keys()):
        assert chunk is not None
        assert (chunk.numpy() == array(int(key[1:]))).all()


async def test_what_one_store_gives_is_put_to_another(connector: ManagedConnector, arena: LocalCPUBackend) -> None:
    await connector.put_all((key, chunk_of(array(int(key[1:])))) for key in keys(60))
    async with ConnectorManager("memory://another", None, arena) as manager:
        other = manager.create_connector()
        found = connector.iterate(connector.scan())
        assert await other.put_all((key, chunk) async for key, chunk in found if chunk is not None) == 60
        with await other.get("k59") as chunk:  # type: ignore[union-attr]
            assert (chunk.numpy() == array(59)).all()


async def test_a_caller_who_waits_for_room_gets_it_from_chunks_that_are_put(
    connector: ManagedConnector, arena: LocalCPUBackend
) -> None:
    held = [arena.allocate((CHUNK,), "uint8") for _ in range(9)]

    async def made() -> AsyncIterator[tuple[str, MemoryObj]]:
        for number in range(20):
            with await arena.allocate_async((CHUNK,), "uint8", timeout=10) as chunk:
                yield f"k{number}", chunk

    assert await connector.put_all(made()) == 20
    for obj in held:
        assert obj is not None
        obj.ref_count_down()


async def test_a_failure_of_either_side_ends_the_other_and_releases_what_is_held(arena: LocalCPUBackend) -> None:
    ended = []

    async def made(count: int) -> AsyncIterator[tuple[str, MemoryObj]]:
        try:
            for number in range(count):
                with await arena.allocate_async((CHUNK,), "uint8") as chunk:
                    yield f"k{number}", chunk
            raise LookupError("of the generator")
        finally:
            ended.append(count)

    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, arena, {"retries": 0}) as manager:
            connector = manager.create_connector()
            with pytest.raises(LookupError, match="of the generator") as raised:
                await connector.put_all(made(20))
            assert raised.value.__context__ is None
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await connector.put_all(made(1_000_000))
    assert ended == [20, 1_000_000]
    assert arena.statistics().live_objects == 0


async def test_cancelling_a_put_of_all_leaks_nothing(connector: ManagedConnector, arena: LocalCPUBackend) -> None:
    async def made() -> AsyncIterator[tuple[str, MemoryObj]]:
        for number in range(NUMBER):
            with await arena.allocate_async((CHUNK,), "uint8") as chunk:
                yield f"k{number}", chunk

    for turns in range(60):
        putting = asyncio.ensure_future(connector.put_all(made()))
        for _ in range(turns):
            await asyncio.sleep(0)
        putting.cancel()
        await asyncio.wait([putting])
        await until(lambda: arena.statistics().reserved == 0 and connector.in_flight == 0)


async def test_what_is_not_a_pair_is_refused_by_name(connector: ManagedConnector) -> None:
    wrong: list[Any] = ["k", 7, ["k"], [("k", b"bytes")], [("k", chunk_of(array(1)), 3)], [["k", chunk_of(array(1))]]]
    for pairs in wrong:
        with pytest.raises(InvalidArgumentError, match=r"expected (an iterable of )?tuples of a key and a"):
            await connector.put_all(pairs)
        with pytest.raises(InvalidArgumentError, match=r"expected (an iterable of )?tuples of a key and a"):
            await asyncio.to_thread(connector.sync.put_all, pairs)
    assert await connector.put_all([]) == 0


async def test_a_thread_puts_what_it_makes_with_blocking_allocations(
    connector: ManagedConnector, arena: LocalCPUBackend
) -> None:
    def made() -> Iterator[tuple[str, MemoryObj]]:
        for number in range(NUMBER):
            with arena.allocate_sync((CHUNK // 8,), "int64", timeout=10) as chunk:
                chunk.numpy()[:] = number
                yield f"k{number}", chunk

    told: list[Any] = []
    assert await asyncio.to_thread(connector.sync.put_all, made(), told.append) == NUMBER
    assert told[-1] == (NUMBER, None, NUMBER, NUMBER * CHUNK)
    assert len(await connector.list()) == NUMBER
    async with connector.chunk("k299") as chunk:
        assert (chunk.numpy() == array(299)).all()
