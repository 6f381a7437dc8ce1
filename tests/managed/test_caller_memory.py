"""Chunks in memory of the caller: what the manager adds, and that no call touches it after its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import pytest

from lmcache_connect import (
    ArenaExhaustedError,
    ChunkMetadata,
    ConnectorAdapter,
    ConnectorClosedError,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    Key,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    OperationTimeoutError,
    RemoteConnector,
    StoreUnavailableError,
    regions_of,
)
from lmcache_connect.contract import Flags
from lmcache_connect.errors import (
    CircuitOpenError,
    ConnectorContractError,
    InvalidArgumentError,
    InvalidKeyError,
    LoopNotRunningError,
    SyncCallOnLoopError,
    SyncTimeoutError,
)
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer

SIZE: Final = 1 << 16
MARK: Final = 0x5A

BASE: Final[dict[str, Any]] = {
    "operation_timeout": 5,
    "allocate_timeout": 0.2,
    "retries": 0,
    "close_grace": 0.2,
    "breaker_failures": 100,
    "announce_interval": 0,
    "trusted_modules": ("*",),
}


class Shelf(RemoteConnector):
    """Has `get` and `put` alone. A test holds its calls, and says what they answer."""

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__()
        self.context = context
        self.chunks: dict[Key, tuple[ChunkMetadata, bytes]] = {}
        self.puts: list[int] = []
        self.failures: list[Exception] = []
        self.hold: asyncio.Event | None = None
        self.has_begun = asyncio.Event()

    async def _turn(self) -> None:
        self.has_begun.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.failures:
            raise self.failures.pop()

    async def exists(self, key: Key) -> bool:
        return key in self.chunks

    async def get(self, key: Key) -> MemoryObj | None:
        await self._turn()
        if key not in self.chunks:
            return None
        metadata, payload = self.chunks[key]
        obj = await self.context.local_cpu_backend.allocate_chunk_async(
            metadata, timeout=self.context.settings.allocate_timeout
        )
        obj.byte_array[:] = payload
        return obj

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self._turn()
        self.puts.append(memory_obj.get_size())
        self.chunks[key] = memory_obj.metadata, bytes(memory_obj.byte_array)

    async def list(self) -> list[str]:
        return [str(key) for key in self.chunks]

    async def close(self) -> None:
        pass


class ShelfAdapter(ConnectorAdapter):
    schema = "plainshelf://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return Shelf(context)


@asynccontextmanager
async def shelf(nbytes: int = 1 << 20, **settings: Any) -> AsyncIterator[tuple[ManagedConnector, Shelf]]:
    """A managed connector on a shelf, and the shelf. The arena has so many bytes, and must be empty at the end."""
    with LocalCPUBackend(nbytes) as backend:
        config = ConnectorConfig.load(**{**BASE, **settings})
        async with ConnectorManager(local_cpu_backend=backend, config=config) as manager:
            manager.register(ShelfAdapter())
            connector = manager.create_connector("plainshelf://here")
            assert isinstance(connector.wrapped, Shelf)
            yield connector, connector.wrapped
        assert backend.statistics().reserved == 0


@asynccontextmanager
async def valkey(url: str, **settings: Any) -> AsyncIterator[ManagedConnector]:
    with LocalCPUBackend(16 << 20) as backend:
        config = ConnectorConfig.load(**{**BASE, **settings})
        async with ConnectorManager(url, None, backend, config) as manager:
            yield manager.create_connector()


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


def marked(nbytes: int = SIZE) -> bytearray:
    return bytearray([MARK]) * nbytes


# ------------------------------------------------------------------------------------------------ what is counted


@pytest.mark.asyncio
async def test_hits_misses_and_bytes_are_counted_by_operation() -> None:
    async with shelf() as (connector, _):
        assert await connector.put_from("a", b"x" * 100)
        assert await connector.batched_put_from(["b", "c"], [b"y" * 200, b"z" * 300]) == [True, True]
        assert await connector.get_into("a", bytearray(100))
        assert not await connector.get_into("none", bytearray(100))
        flags = await connector.batched_get_into(["a", "none", "b", "c"], [bytearray(n) for n in (100, 1, 99, 300)])
        assert flags == [True, False, False, True]
        counted = connector.statistics()
        put, puts = counted["put_from"], counted["batched_put_from"]
        assert (put.calls, put.items, put.bytes, puts.calls, puts.items, puts.bytes) == (1, 1, 100, 1, 2, 500)
        get, gets = counted["get_into"], counted["batched_get_into"]
        assert (get.calls, get.items, get.hits, get.bytes, get.misses) == (2, 2, 1, 100, {"absent": 1})
        assert (gets.calls, gets.items, gets.hits, gets.bytes) == (1, 4, 2, 400)
        assert gets.misses == {"absent": 1, "mismatch": 1}
        assert "get" not in counted
        assert "batched_put" not in counted


@pytest.mark.asyncio
async def test_a_put_that_the_connector_did_not_store_is_counted_as_such_and_moves_no_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with shelf() as (connector, store):

        async def refuse(keys: Sequence[Key], *_: Any) -> Flags:
            return [True] + [False] * (len(keys) - 1)

        monkeypatch.setattr(store, "batched_put_from", refuse)
        assert await connector.batched_put_from(["a", "b", "c"], [b"x" * 100] * 3) == [True, False, False]
        counted = connector.statistics()["batched_put_from"]
        assert (counted.bytes, counted.misses) == (100, {"not_stored": 2})


@pytest.mark.asyncio
async def test_a_bypassed_connector_neither_receives_nor_stores() -> None:
    async with shelf() as (connector, store):
        await connector.put_from("a", b"x" * 100)
        connector.bypass = True
        buffer = marked(100)
        assert await connector.get_into("a", buffer) is False
        assert await connector.batched_put_from(["b", "c"], [b"y"] * 2) == [False, False]
        assert buffer == marked(100)
        assert list(store.chunks) == ["a"]
        assert connector.statistics()["batched_put_from"].misses == {"bypassed": 2}


@pytest.mark.asyncio
@pytest.mark.parametrize(("answer", "says"), [(None, "NoneType"), ([1, 1], "a list of int"), ([True], "1 answers")])
async def test_an_answer_that_is_not_a_bool_per_key_is_never_taken_for_true(
    answer: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf() as (connector, store):

        async def answers(*_: Any) -> Any:
            return answer

        monkeypatch.setattr(store, "batched_get_into", answers)
        monkeypatch.setattr(store, "batched_put_from", answers)
        with pytest.raises(ConnectorContractError, match=says):
            await connector.batched_get_into(["a", "b"], [bytearray(1), bytearray(1)])
        with pytest.raises(ConnectorContractError, match=says):
            await connector.batched_put_from(["a", "b"], [bytearray(1), bytearray(1)])


# ---------------------------------------------------------------------------------------------- a store that fails


@pytest.mark.asyncio
async def test_with_errors_miss_a_store_that_is_gone_gives_false_for_every_key(server: ValkeyServer) -> None:
    async with valkey(server.url(), errors="miss") as connector:
        assert await connector.put_from("a", b"x" * SIZE)
        server.kill()
        buffer = marked()
        assert await connector.get_into("a", buffer) is False
        assert await connector.put_from("a", buffer) is False
        assert await connector.batched_get_into(["a", "b"], [buffer, marked()]) == [False, False]
        assert await connector.batched_put_from(["a", "b"], [buffer, buffer]) == [False, False]
        assert connector.statistics()["batched_put_from"].misses["StoreUnavailableError"] == 2


@pytest.mark.asyncio
async def test_with_errors_raise_a_store_that_is_gone_raises_and_then_the_breaker_answers(
    server: ValkeyServer,
) -> None:
    async with valkey(server.url(), breaker_failures=2, breaker_reset=60) as connector:
        server.kill()
        with pytest.raises(StoreUnavailableError):
            await connector.get_into("a", bytearray(SIZE))
        with pytest.raises(StoreUnavailableError):
            await connector.batched_put_from(["a"], [bytearray(SIZE)])
        for call in (
            connector.get_into("a", bytearray(SIZE)),
            connector.put_from("a", bytearray(SIZE)),
            connector.batched_get_into(["a"], [bytearray(SIZE)]),
            connector.batched_put_from(["a"], [bytearray(SIZE)]),
        ):
            with pytest.raises(CircuitOpenError):
                await call


@pytest.mark.asyncio
async def test_a_get_is_tried_again_and_a_put_is_not() -> None:
    async with shelf(retries=2, retry_backoff=0.001) as (connector, store):
        store.chunks["a"] = ChunkMetadata.of((100,), "uint8"), b"x" * 100
        store.failures = [StoreUnavailableError("shelf", "gone") for _ in range(2)]
        buffer = bytearray(100)
        assert await connector.get_into("a", buffer)
        assert buffer == b"x" * 100
        assert connector.statistics()["get_into"].retries == 2
        store.failures = [StoreUnavailableError("shelf", "gone")]
        with pytest.raises(StoreUnavailableError):
            await connector.put_from("b", buffer)
        assert connector.statistics()["put_from"].retries == 0
        assert "b" not in store.chunks


@pytest.mark.asyncio
async def test_a_call_that_is_late_ends_at_its_deadline_and_writes_nothing_when_the_store_goes_on(
    server: ValkeyServer,
) -> None:
    with FaultProxy(server.host, server.port) as proxy:
        url = f"valkey://{proxy.host}:{proxy.port}"
        async with valkey(url, operation_timeout=0.3, stall_timeout=60, min_throughput=1 << 40) as connector:
            assert await connector.put_from("a", b"x" * (4 << 20))
            proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=1 << 20))
            buffer = marked(4 << 20)
            with pytest.raises(OperationTimeoutError):
                await connector.get_into("a", buffer)
            buffer[:] = marked(4 << 20)
            proxy.disarm()
            other = bytearray(4 << 20)
            assert await connector.get_into("a", other)  # by then what was stalled has long come
            assert other == b"x" * (4 << 20)
            assert buffer == marked(4 << 20)


@pytest.mark.asyncio
async def test_the_bytes_of_calls_that_end_go_back_to_the_budget() -> None:
    async with shelf(max_bytes_in_flight=SIZE) as (connector, store):
        store.failures = [StoreUnavailableError("shelf", "gone") for _ in range(3)]
        for call in (connector.put_from, connector.get_into, connector.put_from):
            with pytest.raises(StoreUnavailableError):
                await call("a", bytearray(SIZE))
        store.hold = asyncio.Event()
        held = asyncio.create_task(connector.put_from("a", bytearray(SIZE)))
        await store.has_begun.wait()
        waiting = asyncio.create_task(connector.put_from("b", bytearray(SIZE)))
        await asyncio.sleep(0.01)
        store.hold.set()
        assert await held
        assert await waiting
        assert connector.in_flight == 0


# -------------------------------------------------------------------------------------------------- the arena


@pytest.mark.asyncio
async def test_a_batch_that_is_larger_than_the_arena_is_copied_in_parts() -> None:
    async with shelf(nbytes=4 * SIZE) as (connector, store):
        keys = [f"k{index}" for index in range(20)]
        sent = [bytes([index]) * SIZE for index in range(20)]
        assert await connector.batched_put_from(keys, sent) == [True] * 20
        assert store.puts == [SIZE] * 20
        buffers = [bytearray(SIZE) for _ in keys]
        assert await connector.batched_get_into(keys, buffers) == [True] * 20
        assert buffers == sent


@pytest.mark.asyncio
async def test_puts_that_fill_the_arena_together_do_not_wait_for_each_other() -> None:
    size = (1 << 20) + 4096  # of which one piece is copied, and then others have their turn
    async with shelf(nbytes=8 * size, allocate_timeout=1) as (connector, store):
        # Each batch takes its first chunk; then there is no room for a second one of any.
        batches = [[f"{batch}-{index}" for index in range(4)] for batch in range(16)]
        stored = await asyncio.gather(*(connector.batched_put_from(keys, [bytes(size)] * 4) for keys in batches))
        assert stored == [[True] * 4] * 16
        assert len(store.chunks) == 64


@pytest.mark.asyncio
async def test_a_put_that_waits_for_room_leaves_the_byte_budget_to_those_who_release_some() -> None:
    async with shelf(max_bytes_in_flight=SIZE, allocate_timeout=2) as (connector, _):
        backend = connector.context.local_cpu_backend
        held = [obj for obj in (backend.allocate((SIZE,), "uint8") for _ in range(16)) if obj is not None]
        waiting = asyncio.create_task(connector.put_from("a", bytes(SIZE)))
        while not backend.statistics().waiters:
            await asyncio.sleep(0)
        for index, obj in enumerate(held):
            with obj:
                await connector.put(f"held-{index}", obj)
        assert await waiting


@pytest.mark.asyncio
@pytest.mark.parametrize("errors", ["raise", "miss"])
async def test_a_full_arena_is_an_error_of_the_call_for_a_connector_that_copies(errors: str) -> None:
    async with shelf(errors=errors) as (connector, store):
        backend = connector.context.local_cpu_backend
        held = backend.allocate((1 << 20,), "uint8")
        assert held is not None
        with held:
            if errors == "raise":
                with pytest.raises(ArenaExhaustedError):
                    await connector.put_from("a", bytes(SIZE))
            else:
                assert await connector.put_from("a", bytes(SIZE)) is False
        assert connector.breaker_state.value == "closed"
        assert not store.chunks
        assert await connector.put_from("a", bytes(SIZE))


@pytest.mark.asyncio
async def test_a_connector_that_copies_nothing_needs_no_room() -> None:
    with LocalCPUBackend(1 << 20) as backend:
        async with ConnectorManager("memory://roomless", None, backend, ConnectorConfig.load(**BASE)) as manager:
            connector = manager.create_connector()
            held = backend.allocate((1 << 20,), "uint8")
            assert held is not None
            with held:
                buffer = bytearray(4 << 20)
                assert await connector.put_from("a", b"x" * (4 << 20))
                assert await connector.get_into("a", buffer)
                assert buffer == b"x" * (4 << 20)


# ---------------------------------------------------------------------------------------------- the caller's memory


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("keys", "buffers", "metadata", "argument"),
    [
        (["a"], [], None, "buffers"),
        (["a"], [bytearray(1)] * 2, None, "buffers"),
        (["a"], bytearray(1), None, "buffers"),
        (["a"], None, None, "buffers"),
        ("a", [bytearray(1)], None, "keys"),
        (["a"], [memoryview(bytearray(4))[::2]], None, "buffers"),
        (["a"], [bytearray(1)], ChunkMetadata.of((2,), "uint8"), "metadata"),
        (["a"], [bytearray(1)], [ChunkMetadata.of((1,), "uint8")] * 2, "metadata"),
        (["a"], [bytearray(1)], "uint8", "metadata"),
        (["a"], [bytearray(1)], 7, "metadata"),
    ],
)
async def test_a_mistake_of_the_caller_raises_in_both_error_modes(
    keys: Any, buffers: Any, metadata: Any, argument: str
) -> None:
    async with shelf(errors="miss") as (connector, store):
        for call in (connector.batched_get_into, connector.batched_put_from):
            with pytest.raises(InvalidArgumentError) as caught:
                await call(keys, buffers, metadata)
            assert caught.value.argument == argument
        assert not store.has_begun.is_set()
        assert not connector.statistics()


@pytest.mark.asyncio
async def test_the_message_names_the_key_whose_buffers_are_wrong() -> None:
    async with shelf() as (connector, _):
        with pytest.raises(InvalidArgumentError, match="of key 1: region 1: it is read-only"):
            await connector.batched_get_into(["a", "b"], [bytearray(2), [bytearray(1), b"x"]])
        with pytest.raises(InvalidKeyError):
            await connector.get_into("a\0b", bytearray(1))


@pytest.mark.asyncio
async def test_memory_that_two_keys_share_may_be_sent_and_not_received_into() -> None:
    async with shelf() as (connector, store):
        buffer = bytearray(b"abc")
        assert await connector.batched_put_from(["a", "b"], [buffer, buffer]) == [True, True]
        assert {payload for _, payload in store.chunks.values()} == {b"abc"}
        with pytest.raises(InvalidArgumentError, match="share 3 bytes"):
            await connector.batched_get_into(["a", "b"], [buffer, buffer])


@pytest.mark.asyncio
async def test_the_buffer_is_free_when_the_call_has_ended_even_while_its_error_is_kept() -> None:
    async with shelf() as (connector, store):
        buffer = bytearray(100)
        store.hold = asyncio.Event()
        putting = asyncio.create_task(connector.put_from("a", buffer))
        await store.has_begun.wait()
        with pytest.raises(BufferError):
            buffer.append(0)  # the call uses it
        store.hold.set()
        assert await putting
        buffer.append(0)
        store.failures = [StoreUnavailableError("shelf", "gone") for _ in range(2)]
        kept = []
        for call in (connector.put_from, connector.get_into):
            try:
                await call("a", buffer)
            except StoreUnavailableError as error:
                kept.append(error)
            buffer.append(0)
        assert len(kept) == 2


@pytest.mark.asyncio
async def test_regions_that_the_caller_has_made_stay_his() -> None:
    async with shelf() as (connector, _):
        regions = regions_of([bytearray(b"abc"), bytearray(b"de")], writable=True)
        assert await connector.put_from("a", regions)
        regions.write(0, b"12345")
        assert await connector.batched_get_into(["a"], [regions]) == [True]
        assert b"".join(regions.views) == b"abcde"


@pytest.mark.asyncio
async def test_closing_the_connector_ends_the_call_and_nothing_is_written_afterwards() -> None:
    async with shelf() as (connector, store):
        store.chunks["a"] = ChunkMetadata.of((100,), "uint8"), b"x" * 100
        store.hold = asyncio.Event()
        buffer = marked(100)
        getting = asyncio.create_task(connector.get_into("a", buffer))
        await store.has_begun.wait()
        await connector.close()
        with pytest.raises(ConnectorClosedError):
            await getting
        store.hold.set()
        await asyncio.sleep(0.01)
        assert buffer == marked(100)
        with pytest.raises(ConnectorClosedError):
            await connector.get_into("a", buffer)


@pytest.mark.asyncio
async def test_a_call_under_way_when_the_connector_is_recreated_finishes_with_the_old_one() -> None:
    async with shelf(close_grace=5) as (connector, store):
        store.chunks["a"] = ChunkMetadata.of((100,), "uint8"), b"x" * 100
        store.hold = asyncio.Event()
        buffer = marked(100)
        getting = asyncio.create_task(connector.get_into("a", buffer))
        await store.has_begun.wait()
        context = connector.context

        async def make() -> tuple[RemoteConnector, ConnectorContext]:
            return Shelf(context), context

        recreating = asyncio.create_task(connector.recreate(make))
        while connector.wrapped is store:
            await asyncio.sleep(0)
        assert await connector.put_from("b", buffer)  # the new one has what it needs for its copies
        store.hold.set()
        assert await getting
        assert buffer == b"x" * 100
        await recreating


# -------------------------------------------------------------------------------------------- threads, other loops


@pytest.mark.asyncio
async def test_sync_refuses_the_owning_loops_own_thread() -> None:
    async with shelf() as (connector, _):
        with pytest.raises(SyncCallOnLoopError):
            connector.sync.get_into("a", bytearray(1))


@pytest.mark.asyncio
async def test_a_thread_that_waited_too_long_has_its_memory_back() -> None:
    async with shelf() as (connector, store):
        store.chunks["a"] = ChunkMetadata.of((100,), "uint8"), b"x" * 100
        store.hold = asyncio.Event()
        buffer = marked(100)
        with pytest.raises(SyncTimeoutError):
            await asyncio.to_thread(connector.sync.batched_get_into, ["a"], [buffer], timeout=0.05)
        buffer.append(MARK)  # nothing has a view of it
        store.hold.set()
        await asyncio.sleep(0.01)
        assert buffer == marked(101)


@contextmanager
def stopped_in_a_call(call: Callable[[ManagedConnector, bytearray], object], buffer: bytearray) -> Iterator[Shelf]:
    """The loop of a connector stops while the thread's call is under way. In the block it runs again."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    def run() -> None:
        loop.call_soon(ready.set)
        loop.run_forever()

    runner = threading.Thread(target=run)
    runner.start()
    with LocalCPUBackend(1 << 20) as backend:
        manager = ConnectorManager(None, loop, backend, ConnectorConfig.load(**BASE))
        manager.register(ShelfAdapter())
        connector = manager.create_connector("plainshelf://here")
        store = connector.wrapped
        assert isinstance(store, Shelf)
        store.chunks["a"] = ChunkMetadata.of((len(buffer),), "uint8"), b"x" * len(buffer)
        store.hold = asyncio.Event()
        raised: list[Exception] = []

        def in_a_thread() -> None:
            try:
                call(connector, buffer)
            except Exception as error:
                raised.append(error)

        caller = threading.Thread(target=in_a_thread)
        caller.start()
        asyncio.run_coroutine_threadsafe(store.has_begun.wait(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        runner.join(10)
        caller.join(20)
        assert [type(error) for error in raised] == [LoopNotRunningError]
        ready.clear()
        runner = threading.Thread(target=run)
        runner.start()
        ready.wait(10)
        loop.call_soon_threadsafe(store.hold.set)
        manager.__exit__(None, None, None)  # which waits for what is under way
        yield store
        loop.call_soon_threadsafe(loop.stop)
        runner.join(10)
        loop.close()


def test_a_get_that_was_given_up_with_a_stopped_loop_writes_nothing_when_that_runs_again() -> None:
    buffer = marked()
    with stopped_in_a_call(lambda connector, memory: connector.sync.get_into("a", memory, timeout=0.2), buffer):
        buffer.append(MARK)
        assert buffer == marked(SIZE + 1)


def test_a_put_that_was_given_up_with_a_stopped_loop_reads_nothing_when_that_runs_again() -> None:
    buffer = marked()
    puts = lambda connector, memory: connector.sync.put_from("b", memory, timeout=0.2)  # noqa: E731
    with stopped_in_a_call(puts, buffer) as store:
        buffer[:] = bytes(SIZE)
        assert store.chunks.get("b", (None, bytes(marked())))[1] == marked()


def test_a_call_from_another_loop_that_is_cancelled_returns_when_its_memory_is_free() -> None:
    with LocalCPUBackend(1 << 20) as backend:
        config = ConnectorConfig.load(**BASE)
        with ConnectorManager(None, None, backend, config) as manager:
            manager.register(ShelfAdapter())
            connector = manager.create_connector("plainshelf://here")
            store = connector.wrapped
            assert isinstance(store, Shelf)
            store.chunks["a"] = ChunkMetadata.of((100,), "uint8"), b"x" * 100
            store.hold = asyncio.Event()

            async def cancelled() -> None:
                buffer = marked(100)
                getting = asyncio.create_task(connector.get_into("a", buffer))
                started = time.monotonic()
                while not store.has_begun.is_set() and time.monotonic() < started + 10:
                    await asyncio.sleep(0.001)
                getting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await getting
                buffer.append(MARK)
                assert buffer == marked(101)

            asyncio.run(cancelled())
            assert connector.in_flight == 0
