"""`RemoteMetadata` and the executors without LMCache: as LMCache's own, also where a connector compresses."""

from __future__ import annotations

import asyncio
import struct
import threading
from typing import Any

import pytest

from lmcache_connect.compat.shim import protocol
from lmcache_connect.compat.shim.job_executor import AsyncPQExecutor, AsyncPQThreadPoolExecutor
from lmcache_connect.compat.shim.memory import BytesBufferMemoryObj
from lmcache_connect.compat.shim.protocol import RemoteMetadata, pad_shape_to_4d
from lmcache_connect.dtypes import dtype_of
from lmcache_connect.errors import ConnectorClosedError, CorruptRecordError, InvalidShapeError, UnknownDtypeError
from lmcache_connect.metadata import MemoryFormat

HALF = dtype_of("half")


@pytest.fixture(autouse=True)
def one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_groups", 1)


@pytest.mark.parametrize("length", [0, 5, 4096, 10_000])
def test_a_length_unlike_that_of_the_shapes_comes_back_as_it_was(length: int) -> None:
    given = RemoteMetadata(length, [(2, 4, 16, 16)], [HALF], MemoryFormat.KV_2LTD)
    assert given.serialize() == struct.pack("<7i", length, MemoryFormat.KV_2LTD, 2, 2, 4, 16, 16)
    found = RemoteMetadata.deserialize(given.serialize())
    assert (found.length, [tuple(shape) for shape in found.shapes]) == (length, [(2, 4, 16, 16)])


def test_a_dtype_that_is_none_stays_none() -> None:
    given = RemoteMetadata(7, [(7, 0, 0, 0)], [None], MemoryFormat.BINARY_BUFFER)
    found = RemoteMetadata.deserialize(given.serialize())
    assert found == given
    buffer = BytesBufferMemoryObj(bytearray(7))
    assert (buffer.get_dtype(), buffer.get_dtypes(), tuple(buffer.get_shape())) == (None, [None], (7, 0, 0, 0))


def test_five_dimensions_are_refused() -> None:
    with pytest.raises(InvalidShapeError, match="5 dimensions; LMCache's records hold at most 4"):
        pad_shape_to_4d((1, 2, 3, 4, 5))
    with pytest.raises(InvalidShapeError, match="5 dimensions"):
        RemoteMetadata(240, [(1, 2, 3, 4, 5)], [HALF], MemoryFormat.KV_2LTD).serialize()


@pytest.mark.parametrize(
    ("length", "dtype", "kind"), [(1 << 31, HALF, InvalidShapeError), (8, "int64", UnknownDtypeError)]
)
def test_what_lmcache_cannot_write_is_refused(length: int, dtype: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        RemoteMetadata(length, [(1,)], [dtype], MemoryFormat.KV_2LTD).serialize()


@pytest.mark.parametrize(
    "encoded", [b"", bytes(7), struct.pack("<7i", 4, 99, 2, 2, 0, 0, 0), struct.pack("<7i", 4, 1, 77, 2, 0, 0, 0),
                struct.pack("<7i", -4, 1, 2, 2, 0, 0, 0), struct.pack("<7i", 4, 1, 2, -2, 0, 0, 0)]
)  # fmt: skip
def test_what_is_no_description_is_refused(encoded: bytes) -> None:
    with pytest.raises(CorruptRecordError):
        RemoteMetadata.deserialize(encoded)


# ------------------------------------------------------------------------------------------------------ executors


@pytest.mark.asyncio
async def test_an_executor_runs_so_many_jobs_at_a_time_and_the_most_urgent_first() -> None:
    executor = AsyncPQExecutor(asyncio.get_running_loop(), max_workers=2)
    order: list[int] = []
    under_way = most = 0

    async def job(number: int, *, twice: bool) -> int:
        nonlocal under_way, most
        order.append(number)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return number * (2 if twice else 1)

    jobs = [executor.submit_job(job, number, twice=True, priority=-number) for number in range(6)]
    assert await asyncio.gather(*jobs) == [0, 2, 4, 6, 8, 10]
    assert most == 2
    assert order == [0, 1, 5, 4, 3, 2]


@pytest.mark.asyncio
async def test_a_caller_that_is_cancelled_ends_its_job_and_costs_no_worker() -> None:
    executor = AsyncPQExecutor(asyncio.get_running_loop(), max_workers=1)
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    running, waiting = (asyncio.create_task(executor.submit_job(endless)) for _ in range(2))
    await asyncio.sleep(0)
    waiting.cancel()
    running.cancel()
    await asyncio.wait((running, waiting))
    assert ended.is_set()
    assert await executor.submit_job(asyncio.sleep, 0, "done") == "done"


@pytest.mark.asyncio
async def test_an_executor_is_shut_down_from_its_loop_and_from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    for shut_down in ("awaited", "not awaited", "in a thread", "async"):
        executor = await asyncio.to_thread(AsyncPQExecutor, loop)  # LMCache makes connectors in a thread
        going_on = asyncio.create_task(executor.submit_job(asyncio.sleep, 0.01, "done"))
        await asyncio.sleep(0)
        match shut_down:
            case "awaited":
                await executor.shutdown(wait=True)
            case "not awaited":
                executor.shutdown(wait=False)
            case "in a thread":
                await asyncio.to_thread(executor.shutdown)
            case _:
                await executor.shutdown_async()
        assert await going_on == "done"
        with pytest.raises(ConnectorClosedError):
            await executor.submit_job(asyncio.sleep, 0)


@pytest.mark.asyncio
async def test_an_executor_of_plain_functions_runs_them_in_threads() -> None:
    executor = AsyncPQThreadPoolExecutor(asyncio.get_running_loop())
    assert await executor.submit_job(threading.get_ident, priority=1) != threading.get_ident()
    await executor.shutdown()
