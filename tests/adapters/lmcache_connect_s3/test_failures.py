"""What an S3 server may do wrong. The caller gets the right bytes, a miss or a typed error by the deadline."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import anyio
import pytest
import pytest_asyncio

from lmcache_connect import (
    AuthenticationError,
    ChunkMemory,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    OperationTimeoutError,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3_faults import (
    Chunked,
    CutBody,
    Do,
    Fault,
    Hangup,
    Header,
    Length,
    Preceded,
    Raw,
    Refuse,
    Reply,
    Request,
    Stall,
    Trailing,
)
from lmcache_connect_s3.failures import NoSuchBucketError, ThrottledError, WrongEndpointError

pytestmark = pytest.mark.in_turn

NBYTES: Final = 3 << 20
CONFIG: Final = ConnectorConfig.load(operation_timeout=2, retries=0, breaker_failures=1000, close_grace=0.5)


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


@pytest.fixture(params=["thread", "loop"])
def io(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def connector(
    server: FaultyS3Server, io: str, local_cpu_backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    url = server.url("p", io=io, range_size=0, timeout=2)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        yield manager.create_connector()
        gc.collect()


def filled(backend: ChunkMemory, seed: int = 1, nbytes: int = NBYTES) -> MemoryObj:
    obj = backend.allocate((nbytes,), "uint8")
    assert obj is not None
    obj.byte_array[:] = content(seed, nbytes)
    return obj


def content(seed: int, nbytes: int = NBYTES) -> bytes:
    return (bytes([seed]) + b"kv-cache") * (nbytes // 9) + b"x" * (nbytes % 9)


async def put(connector: ManagedConnector, key: str = "k", seed: int = 1, nbytes: int = NBYTES) -> None:
    with filled(connector.context.local_cpu_backend, seed, nbytes) as obj:
        await connector.put(key, obj)


async def holds(connector: ManagedConnector, key: str = "k", seed: int = 1, nbytes: int = NBYTES) -> bool:
    """Whether a get brings exactly this; False for a miss. Anything else fails."""
    obj = await connector.get(key)
    if obj is None:
        return False
    with obj:
        assert bytes(obj.byte_array) == content(seed, nbytes)
    return True


# ------------------------------------------------------------------------------------------- bodies that break off


@pytest.mark.parametrize("after", [0, 10, 60, 100, 5000, 1 << 20, NBYTES + 70])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.asyncio
async def test_a_broken_body_is_resumed_from_where_it_broke(
    server: FaultyS3Server, connector: ManagedConnector, after: int, reset: bool
) -> None:
    await put(connector)
    server.plan("GET", CutBody(after, reset))
    assert await holds(connector)
    again = server.asked("GET")[1]
    if after > 1 << 16 and not reset:  # a reset may take what was sent along
        start = int(again.headers["range"].removeprefix("bytes=").partition("-")[0])
        assert 0 < start <= after
        assert again.headers["if-match"].startswith('"')


@pytest.mark.asyncio
async def test_a_body_that_breaks_again_and_again_is_resumed_each_time(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector)
    server.plan("GET", CutBody(1 << 20), times=3)
    assert await holds(connector)
    starts = [int(request.headers.get("range", "bytes=0-")[6:].partition("-")[0]) for request in server.asked("GET")]
    assert starts == sorted(starts)
    assert len(set(starts)) == 4


@pytest.mark.asyncio
async def test_a_get_that_fails_in_the_middle_keeps_no_block_of_the_arena_also_while_its_error_is_kept(
    server: FaultyS3Server, connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    await put(connector)
    server.plan("GET", CutBody(1 << 20))
    server.plan("GET", Refuse(403, "AccessDenied"), times=100)
    gc.disable()  # what the garbage collector alone frees, is freed too late for a get that waits for room
    try:
        with pytest.raises(StoreError) as kept:
            await connector.get("k")
        assert kept.tb is not None
        assert local_cpu_backend.statistics().reserved == 0
    finally:
        gc.enable()


@pytest.mark.asyncio
async def test_an_object_that_is_replaced_while_it_is_resumed_is_read_again(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector, "other", seed=2)
    await put(connector, "k", seed=1)

    def replace(reply: Reply, request: Request) -> None:
        pass

    server.plan("GET", CutBody(1 << 20))
    name, other = "p/k", "p/other"
    swapped = server.objects[name]
    with filled(connector.context.local_cpu_backend, 2) as obj:

        async def when_cut() -> None:
            while not server.asked("GET"):
                await asyncio.sleep(0)
            await connector.put("k", obj)

        changing = asyncio.create_task(when_cut())
        got = await connector.get("k")
        await changing
    assert got is not None
    with got:
        assert bytes(got.byte_array) in {content(1), content(2)}
    assert server.objects[name] != swapped
    assert other in server.objects


@pytest.mark.asyncio
async def test_if_the_object_changed_the_rest_is_not_glued_to_what_was_read(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector, "k", seed=2)
    new = server.objects["p/k"]
    await put(connector, "k", seed=1)

    class CutAndReplace(CutBody):
        def send(self, sock: Any, reply: Reply, stop: Any) -> bool:
            server.objects["p/k"] = new
            return super().send(sock, reply, stop)

    server.plan("GET", CutAndReplace(1 << 20))
    assert await holds(connector, seed=2)
    assert [request.headers.get("if-match") is not None for request in server.asked("GET")] == [False, True, False]


@pytest.mark.asyncio
async def test_ranges_of_one_chunk_are_of_one_object(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    url = server.url("p", io=io, range_size=1 << 20, timeout=5)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, seed=2)
        new = server.objects["p/k"]
        await put(connector, seed=1)
        assert await holds(connector)
        assert len(server.asked("GET")) == 3

        def change(reply: Reply, request: Request) -> None:
            server.objects["p/k"] = new

        server.plan("GET", Do(change))  # before the rest is asked for
        assert await holds(connector, seed=2)
        assert len(server.asked("GET")) > 3 + 3
        server.plan("GET", Fault())
        server.plan("GET", CutBody(1000), times=2)
        assert await holds(connector, seed=2)


# ---------------------------------------------------------------------------------------------- refusals and waits


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(503, "SlowDown"),
        Refuse(503, "ServiceUnavailable", {"Retry-After": "0"}),
        Refuse(500, "InternalError"),
        Refuse(429, "TooManyRequests"),
        Refuse(400, "RequestTimeout"),
        Hangup(),
        Raw(b""),
        Raw(b"HTTP/1.1 200 OK\r\nContent-"),
    ],
)
@pytest.mark.asyncio
async def test_a_store_that_is_busy_for_a_moment_is_asked_again(
    server: FaultyS3Server, connector: ManagedConnector, fault: Fault
) -> None:
    server.plan("PUT", fault, times=2)
    await put(connector)
    server.plan("GET", fault, times=2)
    assert await holds(connector)
    if not isinstance(fault, Refuse) or fault.status != 400:  # a HEAD has no body that would say which
        server.plan("HEAD", fault, times=2)
        assert await connector.exists("k")


@pytest.mark.asyncio
async def test_a_store_that_stays_busy_is_an_error_after_a_bounded_number_of_requests(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    server.plan("GET", Refuse(503, "SlowDown"), times=None)
    with pytest.raises(ThrottledError, match="SlowDown"):
        await connector.get("k")
    assert len(server.asked("GET")) == 4


@pytest.mark.asyncio
async def test_the_retry_budget_ends_a_storm(server: FaultyS3Server, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(server.url("p", attempts=3, timeout=20), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        server.plan("HEAD", Refuse(503, "SlowDown"), times=None)
        for _ in range(5):
            outcomes = await asyncio.gather(
                *(connector.exists(f"k{number}") for number in range(8)), return_exceptions=True
            )
            assert all(isinstance(outcome, StoreUnavailableError) for outcome in outcomes)
        asked = len(server.asked("HEAD"))
        assert asked == 5 * 8 + 60
        with pytest.raises(StoreUnavailableError):
            await connector.exists("k")
        assert len(server.asked("HEAD")) == asked + 1


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (Refuse(403, "AccessDenied"), AuthenticationError, "AccessDenied"),
        (Refuse(403, "SignatureDoesNotMatch"), AuthenticationError, "check the credentials"),
        (Refuse(401, "InvalidToken"), AuthenticationError, "InvalidToken"),
        (Refuse(404, "NoSuchBucket"), NoSuchBucketError, "create the bucket"),
        (
            Refuse(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1", "Location": "http://127.0.0.1:1/"}),
            WrongEndpointError,
            r"set \?region=",
        ),
        (Refuse(307, "TemporaryRedirect", {"Location": "http://127.0.0.1:1/"}), WrongEndpointError, "endpoint"),
    ],
)
@pytest.mark.asyncio
async def test_what_no_repetition_helps_is_permanent_and_says_so_in_both_error_modes(
    server: FaultyS3Server,
    io: str,
    local_cpu_backend: LocalCPUBackend,
    fault: Fault,
    error: type[StoreError],
    said: str,
) -> None:
    server.objects["p/k"] = b"it is there"  # what is denied may be missing otherwise
    for mode in ("raise", "miss"):
        async with ConnectorManager(
            server.url("p", io=io, errors=mode, timeout=2), None, local_cpu_backend, CONFIG
        ) as manager:
            connector = manager.create_connector()
            for method, call in (("GET", connector.get("k")), ("PUT", put(connector))):
                server.requests.clear()
                server.plan(method, fault)
                with pytest.raises(error, match=said):
                    await call
                asked = [request for request in server.requests if request.name]
                assert len(asked) == 1, "a redirect was followed, or a refusal repeated"


@pytest.mark.asyncio
async def test_a_missing_object_is_a_miss(server: FaultyS3Server, connector: ManagedConnector) -> None:
    assert await connector.get("k") is None
    assert not await connector.exists("k")
    await put(connector, "there")
    got = await connector.batched_get(["k", "there", "k2"])
    assert [obj is not None for obj in got] == [False, True, False]
    for obj in got:
        if obj is not None:
            obj.ref_count_down()
    server.plan("GET", Raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found"))
    assert await connector.get("there") is None


@pytest.mark.asyncio
async def test_a_bucket_that_is_missing_is_told_by_look_ups_too(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    server.plan("HEAD", Refuse(404, ""), times=None)
    with pytest.raises(NoSuchBucketError):
        await connector.exists("k")
    with pytest.raises(NoSuchBucketError):
        await connector.ping()


@pytest.mark.asyncio
async def test_an_error_in_place_of_the_object_is_never_data_and_removes_nothing(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector)

    def fail(reply: Reply, request: Request) -> None:
        Refuse(200, "InternalError").edit(reply, request)

    server.plan("GET", Do(fail))
    assert await holds(connector)
    server.plan("GET", Do(fail), times=None)
    with pytest.raises(StoreError, match="InternalError"):
        await connector.get("k")
    assert "p/k" in server.objects
    assert server.asked("DELETE") == []


@pytest.mark.asyncio
async def test_an_error_in_place_of_a_puts_answer_is_a_failed_put(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    def fail(reply: Reply, request: Request) -> None:
        Refuse(200, "InternalError").edit(reply, request)

    server.plan("PUT", Do(fail))
    await put(connector)
    assert len(server.asked("PUT")) == 2
    server.plan("PUT", Do(fail), times=None)
    with pytest.raises(StoreError, match="InternalError"):
        await put(connector)


# ---------------------------------------------------------------------------------------------------- wrong lengths


@pytest.mark.parametrize(
    "length", ["100", "3145000", "3145900", "-5", "1e3", "12, 13", "0x10", "99999999999999999999999"]
)
@pytest.mark.asyncio
async def test_a_wrong_length_never_yields_data(
    server: FaultyS3Server, connector: ManagedConnector, length: str
) -> None:
    await put(connector)
    server.plan("GET", Length(length))
    try:
        await holds(connector)  # the right bytes, or a miss
    except StoreError:
        pass
    await put(connector)
    assert await holds(connector)


@pytest.mark.asyncio
async def test_a_tebibyte_is_a_counted_miss_before_anything_is_allocated(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector)
    server.plan("GET", Length(str(1 << 40)), times=None)
    before = connector.context.local_cpu_backend.statistics().allocations
    assert await connector.get("k") is None
    assert connector.statistics()["get"].misses == {"corrupt:too_large": 1}
    assert connector.context.local_cpu_backend.statistics().allocations == before


@pytest.mark.parametrize(
    "fault",
    [
        Length(None),
        Chunked(),
        Header("Content-Length", "5"),
        Header("Content-Encoding", "gzip"),
        Header("Transfer-Encoding", "chunked"),
        Raw(b"garbage\r\n\r\n"),
        Raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
        Raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
        Raw(b"HTTP/1.1 206 X\r\nContent-Length: 10\r\n\r\n0123456789"),
        Raw(b"HTTP/1.1 206 X\r\nContent-Length: 10\r\nContent-Range: bytes 5-14/20\r\n\r\n0123456789"),
        Raw(b"HTTP/1.1 206 X\r\nContent-Length: 10\r\nContent-Range: bytes 0-99/100\r\n\r\n0123456789"),
    ],
)
@pytest.mark.asyncio
async def test_an_answer_that_breaks_the_protocol_is_an_error_and_the_next_one_is_right(
    server: FaultyS3Server, connector: ManagedConnector, fault: Fault
) -> None:
    await put(connector)
    server.plan("GET", fault)
    assert await holds(connector)
    server.plan("GET", fault, times=None)
    with pytest.raises(StoreProtocolError):
        await connector.get("k")
    assert server.asked("DELETE") == []


@pytest.mark.asyncio
async def test_interim_answers_are_passed_over(server: FaultyS3Server, connector: ManagedConnector) -> None:
    server.plan("PUT", Preceded(b"HTTP/1.1 100 Continue\r\n\r\n"))
    await put(connector)
    server.plan("GET", Preceded(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 3))
    assert await holds(connector)


@pytest.mark.asyncio
async def test_bytes_behind_an_answer_are_not_taken_for_an_answer(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector, "k", seed=1)
    await put(connector, "other", seed=2)
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    for fault in (Trailing(smuggled), Trailing(b"x")):
        server.plan("GET", fault)
        assert await holds(connector, "k", seed=1)
        assert await holds(connector, "other", seed=2)
        server.plan("HEAD", fault)
        assert await connector.exists("k")
        assert not await connector.exists("nothing")


@pytest.mark.asyncio
async def test_a_late_answer_to_another_request_does_not_remove_an_object(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector, "k", seed=1)
    await put(connector, "other", seed=2)
    record = server.objects["p/other"]
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(record), record)
    for late in (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", whole):
        server.plan("GET", Trailing(late, later=True))
        assert await holds(connector, "k", seed=1)
        assert await holds(connector, "k", seed=1)
        assert await holds(connector, "other", seed=2)
    assert server.asked("DELETE") == []


# ---------------------------------------------------------------------------------------------- stalls and black holes


@pytest.mark.parametrize("after", [-1, 0, 100, 1 << 20])
@pytest.mark.asyncio
async def test_a_stall_ends_at_the_deadline_and_gives_everything_back(
    server: FaultyS3Server, io: str, local_cpu_backend: LocalCPUBackend, after: int
) -> None:
    config = CONFIG.model_copy(update={"min_throughput": 1 << 40})
    url = server.url("p", io=io, timeout=0.3, range_size=0)
    patient = ConnectorManager(server.url("p", io=io, range_size=0), None, local_cpu_backend, CONFIG)
    async with patient, ConnectorManager(url, None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        await put(patient.create_connector())
        server.plan("GET", Stall(after))
        server.plan("PUT", Stall(-1))
        started = time.monotonic()
        with pytest.raises(OperationTimeoutError):
            await connector.get("k")
        with pytest.raises(OperationTimeoutError):
            await put(connector)
        assert time.monotonic() - started < 2
        assert local_cpu_backend.statistics().live_objects == 0
        assert await holds(patient.create_connector())


@pytest.mark.asyncio
async def test_a_black_hole_is_an_error_at_the_deadline(local_cpu_backend: LocalCPUBackend) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as hole:
        url = f"s3://bucket?endpoint=http://127.0.0.1:{hole.getsockname()[1]}&access_key=a&secret_key=b&timeout=0.3"
        config = CONFIG.model_copy(update={"min_throughput": 1 << 40})
        async with ConnectorManager(url, None, local_cpu_backend, config) as manager:
            connector = manager.create_connector()
            with anyio.fail_after(3):
                for call in (connector.get("k"), connector.exists("k"), put(connector), connector.list()):
                    with pytest.raises(OperationTimeoutError):
                        await call


@pytest.mark.asyncio
async def test_a_server_that_is_not_there_is_an_error_at_once(local_cpu_backend: LocalCPUBackend) -> None:
    url = "s3://bucket?endpoint=http://127.0.0.1:1&access_key=a&secret_key=b&attempts=2"
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        with pytest.raises(StoreUnavailableError, match="Connection refused"):
            await manager.create_connector().get("k")


@pytest.mark.asyncio
async def test_a_kept_connection_that_was_closed_costs_no_attempt(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    async with ConnectorManager(server.url("p", io=io, attempts=1), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for _ in range(3):
            server.plan("PUT", Hangup())
            await put(connector)
            server.plan("GET", Hangup())
            assert await holds(connector)
            server.plan("HEAD", Hangup())
            assert await connector.exists("k")


# ----------------------------------------------------------------------------------------------------- cancellation


@pytest.mark.asyncio
async def test_a_get_or_a_put_that_is_cancelled_at_any_point_leaves_nothing_behind(
    server: FaultyS3Server, connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    await put(connector)
    for moment in (0, 0.0005, 0.001, 0.002, 0.004, 0.008):
        getting = asyncio.create_task(connector.get("k"))
        await asyncio.sleep(moment)
        getting.cancel()
        try:
            if (obj := await getting) is not None:
                obj.ref_count_down()
        except asyncio.CancelledError:
            pass
        putting = asyncio.create_task(put(connector))
        await asyncio.sleep(moment)
        putting.cancel()
        await asyncio.wait((putting,))
        assert local_cpu_backend.statistics().live_objects == 0
    assert await holds(connector)


# -------------------------------------------------------------------------------------------------------- multipart


@pytest.mark.asyncio
async def test_a_large_chunk_is_put_in_parts_and_a_failed_upload_is_given_up(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    url = server.url("p", io=io, multipart_threshold=5 << 20, part_size=5 << 20, timeout=10)
    nbytes = 12 << 20
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, nbytes=nbytes)
        assert len(server.asked("PUT")) == 3
        assert await holds(connector, nbytes=nbytes)
        server.plan("PUT", Refuse(500, "InternalError"), times=2)
        await put(connector, nbytes=nbytes, seed=2)
        assert await holds(connector, nbytes=nbytes, seed=2)
        server.plan("PUT", Fault())
        server.plan("PUT", Refuse(403, "AccessDenied"), times=3)
        with pytest.raises(AuthenticationError):
            await put(connector, nbytes=nbytes, seed=3)
        assert server.uploads == 0

        def fail(reply: Reply, request: Request) -> None:
            if "uploadId" in request.query:
                Refuse(200, "InternalError").edit(reply, request)

        server.plan("POST", Do(fail), times=None)
        with pytest.raises(StoreError):
            await put(connector, nbytes=nbytes, seed=3)
        assert server.uploads == 0
        assert await holds(connector, nbytes=nbytes, seed=2)


# ---------------------------------------------------------------------------------------------- objects that are wrong


@pytest.mark.asyncio
async def test_a_damaged_chunk_of_several_ranges_is_a_miss_after_a_few_requests(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    url = server.url("p", io=io, range_size=1 << 20, pool_size=1, timeout=3)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector)
        assert await holds(connector)  # its connections have been used then
        record = bytearray(server.objects["p/k"])
        record[len(record) // 2] ^= 1
        server.objects["p/k"] = bytes(record)
        server.requests.clear()
        assert not await holds(connector)
        assert len(server.asked("GET")) <= 9 + 1  # one is the second look, before it is removed
        assert "p/k" not in server.objects
        assert connector.statistics()["get"].misses == {"corrupt:checksum": 1}


@pytest.mark.asyncio
async def test_ranges_that_nothing_tells_from_anothers_are_an_error_and_nothing_is_allocated(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, io: str
) -> None:
    url = server.url("p", io=io, range_size=1 << 20, checksum="false")
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector)
        before = local_cpu_backend.statistics().allocations
        server.plan("GET", Header("ETag", "W/weak"), times=None)
        with pytest.raises(StoreProtocolError, match="without an ETag"):
            await connector.get("k")
        assert local_cpu_backend.statistics().allocations == before
        assert {request.headers["range"] for request in server.asked("GET")} == {"bytes=0-1048575"}
