"""S3: a connection on which nothing moves costs `stall_timeout`. A store that works on a request may take longer."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import StoreStalledError
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, FaultyS3Server, RcloneServer
from lmcache_connect.testing.servers.s3_faults import Do, Reply, Request
from lmcache_connect.testing.servers.s3_faults import Fault as AnswerFault

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

MIB: Final = 1 << 20
STALL: Final = 0.5
SLACK: Final = 0.6
CONFIG: Final = ConnectorConfig.load(
    operation_timeout=20, stall_timeout=STALL, retries=0, breaker_failures=1000, close_grace=0.1
)


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(128 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest.fixture
def proxy(rclone_server: RcloneServer) -> Iterator[FaultProxy]:
    with FaultProxy(rclone_server.host, rclone_server.port) as running:
        yield running


@pytest_asyncio.fixture(params=["loop", "thread"])
async def connector(
    request: pytest.FixtureRequest, proxy: FaultProxy, rclone_server: RcloneServer, backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    url = rclone_server.url(f"stalls-{request.param}", io=request.param)
    url = url.replace(f":{rclone_server.port}", f":{proxy.port}").replace(
        f"%3A{rclone_server.port}", f"%3A{proxy.port}"
    )
    async with ConnectorManager(url, None, backend, CONFIG) as manager:
        yield manager.create_connector()
        proxy.disarm()


async def put(connector: ManagedConnector, backend: LocalCPUBackend, nbytes: int) -> None:
    obj = backend.allocate((nbytes,), "uint8")
    assert obj is not None
    with obj:
        await connector.put("k", obj)


async def seconds_until_stalled(call: Awaitable[object]) -> float:
    started = time.monotonic()
    with pytest.raises(StoreStalledError, match="moved no byte for"):
        await call
    return time.monotonic() - started


@pytest.mark.parametrize("after_bytes", [0, 100, 2 * MIB])
async def test_a_get_whose_answer_stops_ends_after_the_stall_timeout(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy, after_bytes: int
) -> None:
    await put(connector, backend, 4 * MIB)
    proxy.arm(Fault(FaultKind.STALL, after_bytes=after_bytes))
    assert await seconds_until_stalled(connector.get("k")) < STALL + SLACK
    proxy.disarm()
    got = await connector.get("k")
    assert got is not None
    got.ref_count_down()


async def test_a_put_that_nobody_takes_ends_after_the_stall_timeout(
    connector: ManagedConnector, backend: LocalCPUBackend, proxy: FaultProxy
) -> None:
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=MIB))
    assert await seconds_until_stalled(put(connector, backend, 40 * MIB)) < STALL + 2 * SLACK
    proxy.disarm()
    await put(connector, backend, 4 * MIB)


CALLS: Final[dict[str, Callable[[ManagedConnector], Awaitable[object]]]] = {
    "ping": lambda connector: connector.ping(),
    "exists": lambda connector: connector.exists("k"),
    "batched_exists": lambda connector: connector.batched_exists([f"k{index}" for index in range(20)]),
    "list": lambda connector: connector.list(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_small_call_without_an_answer_ends_after_the_stall_timeout(
    connector: ManagedConnector, proxy: FaultProxy, call: str
) -> None:
    proxy.arm(Fault(FaultKind.STALL))
    assert await seconds_until_stalled(CALLS[call](connector)) < STALL + SLACK
    proxy.disarm()
    await CALLS[call](connector)


async def test_the_completion_of_an_upload_may_take_longer_than_the_stall_timeout(
    faulty_s3: FaultyS3Server, backend: LocalCPUBackend
) -> None:
    def work(_: Reply, request: Request) -> None:
        if b"uploadId" in str(request).encode():
            time.sleep(3 * STALL)

    url = faulty_s3.url("p", multipart_threshold=5 * MIB, part_size=5 * MIB)
    async with ConnectorManager(url, None, backend, CONFIG) as manager:
        connector = manager.create_connector()
        faulty_s3.plan("POST", AnswerFault())  # the beginning of the upload
        faulty_s3.plan("POST", Do(work), times=None)
        started = time.monotonic()
        await put(connector, backend, 12 * MIB)
        assert time.monotonic() - started > 3 * STALL
