"""From a URL to a live connector, and back to nothing."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lmcache_connect import (
    ChunkMemory,
    ConnectorAdapter,
    ConnectorClosedError,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    CorruptRecordError,
    CreateConnector,
    InvalidURLError,
    Key,
    LocalCPUBackend,
    MemoryObj,
    OperationTimeoutError,
    RemoteConnector,
    StoreUnavailableError,
    UnsupportedOperationError,
    create_connector,
)
from lmcache_connect.errors import (
    CircuitOpenError,
    ConnectorContractError,
    ConnectorFailureError,
    DuplicateSchemeError,
    ForeignObjectError,
    InvalidArgumentError,
    SyncCallOnLoopError,
    UnknownSchemeError,
)
from lmcache_connect.manager import AdapterRegistry
from lmcache_connect.memory import release_all

SMALL = ConnectorConfig.load(max_local_cpu_bytes=1 << 20, operation_timeout=1, retries=2, retry_backoff=0.001)
EXAMPLES = Path(__file__).parents[2] / "examples"


class Scripted(RemoteConnector):
    """Every answer is what a test puts into it. Never calls super().__init__()."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.answers: dict[str, object] = {}
        self.closed = 0

    async def _answer(self, name: str) -> object:
        self.calls.append(name)
        answer = self.answers.get(name)
        if callable(answer):
            answer = answer()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def exists(self, key: Key) -> bool:
        return bool(await self._answer("exists"))

    async def get(self, key: Key) -> MemoryObj | None:
        return await self._answer("get")  # type: ignore[return-value]

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self._answer("put")

    async def list(self) -> list[str]:
        return await self._answer("list")  # type: ignore[return-value]

    async def close(self) -> None:
        self.closed += 1
        await self._answer("close")


class ScriptedAdapter(ConnectorAdapter):
    schema = "scripted://"

    def __init__(self, connector: Scripted | None = None) -> None:
        super().__init__()
        self.connector = connector or Scripted()
        self.contexts: list[ConnectorContext] = []

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        self.contexts.append(context)
        return self.connector


def scripted(config: ConnectorConfig = SMALL) -> tuple[ConnectorManager, Scripted]:
    manager = ConnectorManager("scripted://", config=config)
    connector = Scripted()
    manager.register(ScriptedAdapter(connector))
    return manager, connector


@pytest.mark.asyncio
async def test_the_context_carries_what_the_manager_was_given(local_cpu_backend: LocalCPUBackend) -> None:
    adapter = ScriptedAdapter()
    manager = ConnectorManager("scripted://u:p%40ss@h:1/x?y=1", local_cpu_backend=local_cpu_backend, config=SMALL)
    async with manager:
        manager.register(adapter)
        manager.create_connector()
    context = adapter.contexts[0]
    assert context.loop is asyncio.get_running_loop()
    assert context.local_cpu_backend is local_cpu_backend
    assert context.config is SMALL
    assert context.url == "scripted://u:p%40ss@h:1/x?y=1"
    assert context.remote_url.password is not None
    assert context.remote_url.password.get_secret_value() == "p@ss"
    assert "p%40ss" not in repr(context)
    assert "p@ss" not in repr(context)
    (await local_cpu_backend.allocate_async((1,), "uint8")).ref_count_down()  # borrowed, so still open


@pytest.mark.asyncio
async def test_looking_at_a_manager_makes_nothing() -> None:
    manager = ConnectorManager("memory://unused", config=SMALL)
    async with manager:
        assert manager.made_backend is None
        assert (manager.connectors, manager.known_connectors, manager.plugins) == ((), (), ())
        assert "memory://unused" in repr(manager)
        assert manager.announcer is not None
        manager.announcer.describe()
        assert manager.made_backend is None
        backend = manager.local_cpu_backend  # this makes it
        assert manager.made_backend is backend is manager.local_cpu_backend


@pytest.mark.asyncio
async def test_a_custom_scheme_works_like_a_built_in_one() -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(EXAMPLES / "custom_scheme.py")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "hit ['prompt-1']\n"
    assert done.stderr == ""


@pytest.mark.asyncio
async def test_schemes_match_exactly_and_an_unknown_one_is_refused_with_the_known_ones() -> None:
    for url in ("redisx://localhost", "redi://localhost", "rediss2://localhost"):
        manager = ConnectorManager(url)
        with pytest.raises(UnknownSchemeError, match=r"redis, .*rediss, .*s3, unix"):
            manager.create_connector()


@pytest.mark.asyncio
async def test_a_taken_scheme_is_refused_unless_it_is_to_be_replaced() -> None:
    class Mine(ScriptedAdapter):
        schema = "redis://"

    async with ConnectorManager("redis://localhost", config=SMALL) as manager:
        with pytest.raises(DuplicateSchemeError, match="replace=True"):
            manager.register(Mine)
        manager.register(Mine, replace=True)
        assert isinstance(manager.create_connector().wrapped, Scripted)
    assert (
        AdapterRegistry().describe("redis") == "lmcache_connect_redis.adapter:RedisConnectorAdapter (lmcache-connect)"
    )


@pytest.mark.asyncio
async def test_a_scheme_registered_after_a_miss_is_found() -> None:
    async with ConnectorManager(config=SMALL) as manager:
        with pytest.raises(UnknownSchemeError):
            manager.create_connector("scripted://")
        manager.register(ScriptedAdapter)
        assert manager.create_connector("scripted://").wrapped


@pytest.mark.asyncio
async def test_no_url_at_all_is_refused_by_name() -> None:
    async with ConnectorManager(config=SMALL) as manager:
        with pytest.raises(InvalidArgumentError, match="url"):
            manager.create_connector()
    with pytest.raises(InvalidURLError):
        ConnectorManager("localhost:6379")


@pytest.mark.asyncio
async def test_an_adapter_that_makes_no_connector_is_named() -> None:
    class Wrong(ScriptedAdapter):
        def create_connector(self, context: ConnectorContext) -> RemoteConnector:
            return "a connector"  # type: ignore[return-value]

    async with ConnectorManager("scripted://", config=SMALL) as manager:
        manager.register(Wrong)
        with pytest.raises(ConnectorContractError, match=r"Wrong\.create_connector returned a str"):
            manager.create_connector()


@pytest.mark.asyncio
async def test_the_url_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", "memory://from-the-environment")
    async with ConnectorManager() as manager:
        assert manager.create_connector().context.remote_url.host == "from-the-environment"


@pytest.mark.asyncio
async def test_a_retryable_failure_is_repeated_inside_the_deadline_and_another_is_not() -> None:
    manager, store = scripted()
    async with manager:
        connector = manager.create_connector()
        failures = iter([StoreUnavailableError("s", "1"), ConnectionResetError("2"), True])
        store.answers["exists"] = lambda: next(failures)
        assert await connector.exists("k") is True
        assert connector.statistics()["exists"].retries == 2
        store.calls.clear()
        store.answers["exists"] = ZeroDivisionError("oops")
        with pytest.raises(ConnectorFailureError, match=r"Scripted\.exists raised ZeroDivisionError: oops") as caught:
            await connector.exists("k")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert store.calls == ["exists"]


@pytest.mark.asyncio
async def test_an_operation_that_never_answers_ends_at_its_deadline_even_if_it_swallows_cancellation() -> None:
    async def stubborn() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    manager, store = scripted(SMALL.model_copy(update={"operation_timeout": 0.05, "min_throughput": 1 << 40}))
    async with manager:
        connector = manager.create_connector()
        store.answers["get"] = stubborn
        started = time.monotonic()
        with pytest.raises(OperationTimeoutError):
            await connector.get("k")
        assert time.monotonic() - started < 1
        store.answers["get"] = lambda: asyncio.sleep(3600)
        with pytest.raises(OperationTimeoutError, match=r"get did not finish within 0\.050 s"):
            await connector.get("k")


@pytest.mark.asyncio
async def test_a_caller_who_cancels_does_not_count_against_the_store() -> None:
    manager, store = scripted(SMALL.model_copy(update={"breaker_failures": 1}))
    async with manager:
        connector = manager.create_connector()
        store.answers["exists"] = lambda: asyncio.sleep(3600)
        call = asyncio.ensure_future(connector.exists("k"))
        while connector.in_flight == 0:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        store.answers["exists"] = True
        assert await connector.exists("k") is True


@pytest.mark.asyncio
async def test_a_ping_beside_the_breakers_probe_does_not_let_another_call_through() -> None:
    manager, store = scripted(SMALL.model_copy(update={"breaker_failures": 1, "breaker_reset": 0.001, "retries": 0}))
    async with manager:
        connector = manager.create_connector()
        store.answers["exists"] = StoreUnavailableError("s", "gone")
        with pytest.raises(StoreUnavailableError):
            await connector.exists("k")
        while connector.breaker_state.value != "half_open":
            await asyncio.sleep(0)
        answered = asyncio.Event()
        store.answers["exists"] = answered.wait
        probe = asyncio.ensure_future(connector.exists("k"))
        while connector.in_flight == 0:
            await asyncio.sleep(0)
        with pytest.raises(UnsupportedOperationError):
            await connector.ping()
        with pytest.raises(CircuitOpenError):
            await connector.exists("k")
        answered.set()
        assert await probe is True
        assert connector.breaker_state.value == "closed"


@pytest.mark.asyncio
async def test_a_corrupt_record_is_not_absent_as_well_and_no_count_of_misses_is_zero_or_less() -> None:
    manager, store = scripted()
    error = CorruptRecordError("short", "3 bytes are not a header")

    async def report_twice() -> None:
        for _ in range(2):
            await store.discard_corrupt("k", error)

    async with manager:
        connector = manager.create_connector()
        store.answers["get"] = report_twice
        assert await connector.get("k") is None
        assert connector.statistics()["get"].misses == {"corrupt:short": 2}
        store.answers["get"] = None
        assert await connector.get("k") is None
        store.answers["exists"] = True
        assert await connector.exists("k") is True
        statistics = connector.statistics()
        assert statistics["get"].misses == {"corrupt:short": 2, "absent": 1}
        assert statistics["exists"].misses == {}


@pytest.mark.asyncio
async def test_what_a_careless_connector_returns_is_normalised_or_refused_by_name() -> None:
    manager, store = scripted()
    async with manager:
        connector = manager.create_connector()
        store.answers["list"] = None
        assert await connector.list() == []
        assert [name async for name in connector.scan()] == []
        store.answers["get"] = b"bytes"
        with pytest.raises(ConnectorContractError, match=r"Scripted\.get returned a bytes; expected a MemoryObj"):
            await connector.get("k")
        assert connector.support_ping() is False


@pytest.mark.asyncio
async def test_a_batch_that_drops_its_holes_is_asked_key_by_key_and_nothing_is_mixed_up() -> None:
    class Compacting(Scripted):
        def __init__(self, backend: ChunkMemory) -> None:
            super().__init__()
            self.backend = backend

        async def get(self, key: Key) -> MemoryObj | None:
            if key == "missing":
                return None
            obj = await self.backend.allocate_async((4,), "uint8")
            obj.byte_array[:] = str(key).encode().ljust(4)
            return obj

        async def batched_get(self, keys: object) -> list[MemoryObj | None]:
            assert isinstance(keys, list)
            return [obj for key in keys if (obj := await self.get(key)) is not None]

    manager = ConnectorManager("scripted://", config=SMALL)
    async with manager:
        manager.register(ScriptedAdapter(Compacting(manager.local_cpu_backend)))
        connector = manager.create_connector()
        for _ in range(2):
            found = await connector.batched_get(["a", "missing", "b"])
            assert [obj and bytes(obj.byte_array) for obj in found] == [b"a   ", None, b"b   "]
            release_all(found)
            found.clear()
        assert manager.local_cpu_backend.statistics().reserved == 0


@pytest.mark.asyncio
async def test_put_refuses_what_is_no_chunk_of_its_backend(local_cpu_backend: LocalCPUBackend) -> None:
    manager, store = scripted()
    async with manager:
        connector = manager.create_connector()
        with await local_cpu_backend.allocate_async((4,), "uint8") as foreign:
            with pytest.raises(ForeignObjectError, match="of another backend"):
                await connector.put("k", foreign)
        with pytest.raises(ForeignObjectError, match="got a bytes"):
            await connector.put("k", b"bytes")  # type: ignore[arg-type]
        assert store.calls == []


@pytest.mark.asyncio
async def test_closing_the_manager_closes_its_connectors_once_and_what_failed_is_told() -> None:
    manager, store = scripted()
    async with manager:
        connector = manager.create_connector()
        await connector.close()
        await asyncio.gather(connector.close(), connector.close())
        assert store.closed == 1
        with pytest.raises(ConnectorClosedError, match="connector scripted://"):
            await connector.exists("k")
    with pytest.raises(ConnectorClosedError):
        manager.create_connector()
    await manager.close()
    assert store.closed == 1

    manager, store = scripted()
    store.answers["close"] = RuntimeError("cannot let go")
    manager.create_connector()
    with pytest.raises(ExceptionGroup) as caught:
        await manager.close()
    assert caught.group_contains(RuntimeError, match="cannot let go")


@pytest.mark.asyncio
async def test_a_closer_who_is_cancelled_does_not_leave_the_store_half_closed() -> None:
    manager, store = scripted()
    async with manager:
        connector = manager.create_connector()
        released = asyncio.Event()
        store.answers["close"] = released.wait
        closing = asyncio.ensure_future(connector.close())
        while not store.closed:
            await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        released.set()
        await connector.close()
        assert store.calls == ["close"]


@pytest.mark.asyncio
async def test_a_connector_that_is_forgotten_warns_and_is_closed() -> None:
    manager, store = scripted()
    manager.create_connector()
    with pytest.warns(ResourceWarning, match="was never closed"):
        del manager
        gc.collect()
    for _ in range(10):
        await asyncio.sleep(0)
    assert store.closed == 1


def test_a_synchronous_program_gets_a_loop_thread_that_ends_with_the_manager() -> None:
    before = {thread for thread in threading.enumerate() if thread.name == "lmcache-connect"}
    with ConnectorManager("memory://sync", config=SMALL) as manager:
        connector = manager.create_connector()
        with manager.local_cpu_backend.allocate((8,), "uint8") as chunk:  # type: ignore[union-attr]
            connector.sync.put("k", chunk)
        assert connector.exists_sync("k") is True
        assert connector.sync.contains(["k", "k", "missing", "k"]) == 2
        assert connector.batched_contains(["k", "missing"]) == 1
        assert connector.remove_sync("k") is True
        assert connector.sync.batched_remove(["k", "missing"]) == [True, True]
        assert connector.sync.ping() == 0
        assert connector.sync.list() == []
    assert {thread for thread in threading.enumerate() if thread.name == "lmcache-connect"} == before


@pytest.mark.asyncio
async def test_create_connector_takes_lmcaches_arguments_and_owns_what_it_makes(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    loop = asyncio.get_running_loop()
    connector = CreateConnector("memory://create", loop, local_cpu_backend, SMALL, None)
    assert await connector.exists("k") is False
    with pytest.raises(SyncCallOnLoopError):
        connector.exists_sync("k")
    assert await asyncio.to_thread(connector.exists_sync, "k") is False
    await connector.close()
    assert loop.is_running()
    with pytest.raises(UnknownSchemeError):
        CreateConnector("nonsense://x", loop, local_cpu_backend)


def test_create_connector_without_a_loop_starts_one_and_stops_it_on_close() -> None:
    before = set(threading.enumerate())
    connector = create_connector("memory://alone", config=SMALL)
    assert connector.sync.exists("k") is False
    connector.sync.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectorClosedError):
        connector.sync.exists("k")


@pytest.mark.asyncio
async def test_bytes_in_flight_are_bounded_and_the_wait_is_counted_as_queue_time() -> None:
    manager, store = scripted(SMALL.model_copy(update={"max_bytes_in_flight": 100}))
    async with manager:
        connector = manager.create_connector()
        release = asyncio.Event()
        store.answers["put"] = release.wait
        with await manager.local_cpu_backend.allocate_async((60,), "uint8") as chunk:
            puts = [asyncio.ensure_future(connector.put(str(i), chunk)) for i in range(3)]
            while len(store.calls) < 1:
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            assert store.calls == ["put"]
            release.set()
            await asyncio.gather(*puts)
        assert connector.statistics()["put"].queue_seconds > 0
