"""What a refusal means: who is to blame, whether it is asked again, when, and how often in all."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Final

import pytest

from lmcache_connect import (
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import CircuitOpenError, StoreCommandError, StoreFullError
from lmcache_connect.managed import BreakerState
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3_faults import Fault, Raw, Refuse
from lmcache_connect_s3.failures import ThrottledError, UnsupportedRequestError, WrongEndpointError, retry_after

CONFIG: Final = ConnectorConfig.load(operation_timeout=5, breaker_failures=2)
LOST: Final = CONFIG.model_copy(update={"breaker_failures": 1000})


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


async def put(connector: ManagedConnector) -> None:
    chunk = connector.context.local_cpu_backend.allocate((1000,), "uint8")
    assert chunk is not None
    with chunk:
        await connector.put("k", chunk)


async def call_of(connector: ManagedConnector, method: str) -> None:
    """A call that makes one request with this method."""
    match method:
        case "GET":
            assert await connector.get("k") is None
        case "HEAD":
            await connector.exists("k")
        case _:
            await put(connector)


# ------------------------------------------------------------------------------------- who is to blame


@pytest.mark.parametrize("errors", ["raise", "miss"])
@pytest.mark.parametrize(
    "fault",
    [
        Refuse(501, "NotImplemented"),
        Refuse(501, ""),
        Refuse(400, "InvalidStorageClass"),
        Refuse(400, "InvalidTag"),
        Refuse(405, "MethodNotAllowed"),
        Raw(b"HTTP/1.1 501 X\r\nContent-Length: 4\r\n\r\nHTML"),
    ],
)
@pytest.mark.asyncio
async def test_what_a_store_does_not_have_is_told_after_one_request_with_advice_and_is_no_lost_store(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, fault: Fault, errors: str
) -> None:
    url = server.url("p", tags="a=b", errors=errors)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        server.plan("PUT", fault, times=None)
        for number in range(1, 4):
            with pytest.raises(UnsupportedRequestError, match="leave out the options tags"):
                await put(connector)
            assert len(server.asked("PUT")) == number
        assert connector.breaker_state is BreakerState.CLOSED
        assert await connector.get("other") is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "InvalidArgument", StoreCommandError),
        (400, "InvalidRequest", StoreCommandError),
        (403, "QuotaExceeded", StoreFullError),
        (507, "XMinioStorageFull", StoreFullError),
        (507, "", StoreFullError),
        (407, "", AuthenticationError),
        (421, "", WrongEndpointError),
        (400, "IllegalLocationConstraintException", WrongEndpointError),
        (400, "EntityTooLarge", StoreCommandError),
        (413, "", StoreCommandError),
        (410, "", StoreCommandError),
        (411, "MissingContentLength", StoreCommandError),
        (505, "", UnsupportedRequestError),
    ],
)
@pytest.mark.asyncio
async def test_an_answer_of_a_store_that_works_is_asked_once_and_leaves_the_breaker_closed(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, status: int, code: str, kind: type[StoreError]
) -> None:
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        server.plan("PUT", Refuse(status, code), times=None)
        for _ in range(3):
            with pytest.raises(kind):
                await put(connector)
        assert len(server.asked("PUT")) == 3
        assert connector.breaker_state is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "BadDigest"),
        (400, "XAmzContentSHA256Mismatch"),
        (409, "ConditionalRequestConflict"),
        (425, ""),
        (500, "InternalError"),
        (502, ""),
        (504, ""),
        (509, "BandwidthLimitExceeded"),
        (511, ""),
    ],
)
@pytest.mark.asyncio
async def test_what_may_pass_is_asked_again_and_is_a_lost_store_in_the_end(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, status: int, code: str
) -> None:
    async with ConnectorManager(server.url("p", attempts=2), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        server.plan("PUT", Refuse(status, code))
        await put(connector)
        assert len(server.asked("PUT")) == 2
        server.plan("PUT", Refuse(status, code), times=None)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await put(connector)
        with pytest.raises(CircuitOpenError):
            await put(connector)


# ------------------------------------------------------------------------------------------------- when


def _in(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("asked", ["8", "in an hour", "1000000000", "9" * 60])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.asyncio
async def test_a_pause_beyond_the_deadline_is_an_error_at_once_after_one_request(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, asked: str, method: str
) -> None:
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, LOST) as manager:
        connector = manager.create_connector()
        header = _in(3600) if asked == "in an hour" else asked
        server.plan(method, Refuse(503, "SlowDown", {"Retry-After": header}), times=None)
        started = time.monotonic()
        with pytest.raises(ThrottledError) as caught:
            await call_of(connector, method)
        assert time.monotonic() - started < 1
        assert caught.value.retry_after is not None
        assert 5 < caught.value.retry_after <= 86_400
        assert len(server.asked(method)) == 1


@pytest.mark.asyncio
async def test_a_pause_inside_the_deadline_is_kept_also_where_it_is_a_date(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, LOST) as manager:
        connector = manager.create_connector()
        server.plan("GET", Refuse(503, "SlowDown", {"Retry-After": _in(2)}))
        started = time.monotonic()
        assert await connector.get("k") is None
        assert 0.8 < time.monotonic() - started < 2.5


def test_what_retry_after_says_is_bounded_and_what_is_not_understood_is_nothing() -> None:
    assert retry_after("0") == 0
    assert retry_after("120") == 120
    assert retry_after("9" * 64) == 86_400
    assert retry_after("9" * 65) is None
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert retry_after("Fri, 31 Dec 9999 23:59:59 GMT") == 86_400
    for text in (None, "", "soon", "-1", "1.5", "²", "Fri, 99 Dec 9999 99:99:99 GMT"):
        assert retry_after(text) is None


# -------------------------------------------------------------------------------------------- how often in all


@pytest.mark.parametrize("io", ["thread", "loop"])
@pytest.mark.asyncio
async def test_one_call_makes_no_more_requests_than_its_attempts_whatever_the_manager_is_set_to(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    settings = LOST.model_copy(update={"retries": 5})
    async with ConnectorManager(server.url("p", io=io, attempts=3), None, local_cpu_backend, settings) as manager:
        connector = manager.create_connector()
        for method in ("GET", "HEAD", "PUT"):
            server.plan(method, Refuse(500, "InternalError"), times=None)
            with pytest.raises(StoreUnavailableError):
                await call_of(connector, method)
            assert len(server.asked(method)) == 3


@pytest.mark.parametrize("io", ["thread", "loop"])
@pytest.mark.asyncio
async def test_in_an_outage_the_budget_is_sixty_requests_for_all_calls_and_then_one_a_call(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    async with ConnectorManager(server.url("p", io=io, attempts=4), None, local_cpu_backend, LOST) as manager:
        connector = manager.create_connector()
        server.plan("GET", Refuse(500, "InternalError"), times=None)
        outcomes = await asyncio.gather(*(connector.get(f"k{number}") for number in range(40)), return_exceptions=True)
        assert all(isinstance(outcome, StoreUnavailableError) for outcome in outcomes)
        assert len(server.asked("GET")) == 40 + 60
        for number in range(1, 4):
            with pytest.raises(StoreUnavailableError):
                await connector.get("k")
            assert len(server.asked("GET")) == 40 + 60 + number


@pytest.mark.asyncio
async def test_a_connection_that_is_refused_is_tried_again_as_a_failed_request_is(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # it does not listen
        url = server.url("p", endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}", attempts=3)
        async with ConnectorManager(url, None, local_cpu_backend, LOST) as manager:
            connector = manager.create_connector()
            reading = asyncio.create_task(connector.batched_get(["k0", "k1", "k2"]))
            await asyncio.sleep(0.02)  # it has been refused, and waits to try again
            taken.listen()
            accepted = await asyncio.wait_for(asyncio.to_thread(lambda: taken.accept()[0]), 2)
            reading.cancel()
            await asyncio.wait((reading,))
            accepted.close()
