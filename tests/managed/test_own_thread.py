"""Blocking calls that their callers' own threads make: the same answers, failures and counters as over the loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import (
    ConnectorClosedError,
    ForeignObjectError,
    InvalidKeyError,
    OperationTimeoutError,
    ReleasedObjectError,
    StoreStalledError,
    StoreUnavailableError,
    SyncTimeoutError,
    ValueTooLargeError,
)
from lmcache_connect.lease import Lease, under
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer

SIZE: Final = 64 << 10
STALL: Final = Fault(FaultKind.STALL, Direction.TO_CLIENT)

# What calls over the event loop, and what calls in its caller's own thread.
WAYS: Final = ("io=loop", "io=auto")


class Setting:
    """A connector with a loop of its own, one chunk in the store, and threads' connections that are open."""

    def __init__(self, manager: ConnectorManager, memory: LocalCPUBackend, is_here: bool) -> None:
        self.manager = manager
        self.memory = memory
        self.connector: ManagedConnector = manager.create_connector()
        self.sync = self.connector.sync
        self.put("chunk", 1)
        self.get("chunk")
        while is_here and not self.calls_here("exists"):
            self.sync.exists("chunk")

    def calls_here(self, operation: str) -> int:
        """How many calls were made in their callers' threads."""
        return self.connector.metrics.in_threads(operation).calls

    def put(self, key: str, value: int) -> None:
        """Puts a chunk of that byte."""
        with self.chunk(value) as obj:
            self.sync.put(key, obj)

    def chunk(self, value: int) -> Any:
        """A chunk of that byte."""
        obj = self.memory.allocate((SIZE,), "uint8")
        assert obj is not None
        obj.byte_array[:] = bytes([value]) * SIZE
        return obj

    def get(self, key: str, timeout: float | None = None) -> set[int] | None:
        """The bytes of a chunk; None: a miss."""
        found = self.sync.get(key, timeout)
        if found is None:
            return None
        with found:
            return set(bytes(found.byte_array))

    def counted(self) -> dict[str, Any]:
        """The counters, without times."""
        counted = {}
        for name, stats in self.connector.statistics().items():
            counts = {**vars(stats), "queue": stats.queue.count, "wire": stats.wire.count}
            counted[name] = (*counts.values(),)
        return counted


@contextmanager
def setting(url: str, query: str = "io=auto", room: int = 8 << 20, **settings: Any) -> Iterator[Setting]:
    memory = LocalCPUBackend(room)
    config = ConnectorConfig.load(**{"retries": 0, **settings})
    joined = f"{url}{'&' if '?' in url else '?'}{query}"
    with memory, ConnectorManager(joined, local_cpu_backend=memory, config=config) as manager:
        yield Setting(manager, memory, query != "io=loop")
    assert memory.statistics().reserved == 0


@pytest.fixture
def proxy(valkey_server: ValkeyServer) -> Iterator[FaultProxy]:
    with FaultProxy(valkey_server.host, valkey_server.port) as made:
        yield made
    valkey_server.flush()


@pytest.fixture
def url(proxy: FaultProxy) -> str:
    return f"valkey://{proxy.host}:{proxy.port}"


def test_blocking_calls_run_in_their_callers_thread(url: str) -> None:
    with setting(url) as here:
        before = here.calls_here("exists")
        here.put("other", 2)
        assert here.get("chunk") == {1}
        assert here.get("other") == {2}
        assert here.get("absent") is None
        assert here.sync.exists("other") is True
        assert here.sync.exists("absent") is False
        assert (here.calls_here("get"), here.calls_here("put")) == (3, 1)
        assert here.calls_here("exists") == before + 2


def after_the_same(url: str, query: str, calls: Callable[[Setting], object], **settings: Any) -> dict[str, Any]:
    """The counters after calls whose failures are swallowed; without those of the beginning."""
    with setting(url, query, **settings) as here:
        here.connector.metrics.operation("exists").items = 0
        before = here.counted()
        calls(here)
        after = here.counted()
    changes = {}
    for name, counts in after.items():
        earlier = before.get(name, (0,) * len(counts))
        changes[name] = [
            dict(now) if isinstance(now, dict) else now - then for now, then in zip(counts, earlier, strict=True)
        ]
    changes["exists"][3] = {}  # look-ups that wait for a connection are none of the calls
    return changes


def swallowed(call: Callable[[], object], *errors: type[Exception]) -> None:
    with pytest.raises(errors):
        call()


def test_they_are_counted_as_those_over_the_loop_are(url: str) -> None:
    def calls(here: Setting) -> None:
        here.put("other", 2)
        here.get("other")
        here.get("absent")
        here.sync.exists("other")
        here.sync.exists("absent")

    over_the_loop, here = (after_the_same(url, way, calls) for way in WAYS)
    assert here == over_the_loop


def test_a_damaged_record_is_a_miss_that_is_counted_as_over_the_loop(valkey_server: ValkeyServer, url: str) -> None:
    def calls(here: Setting) -> None:
        here.put("damaged", 3)
        with valkey_server.client() as client:
            [name] = [name for name in client.scan_iter() if b"damaged" in name]
            value = bytearray(client.get(name))
            value[SIZE // 2] ^= 1
            client.set(name, bytes(value))
        assert here.get("damaged") is None
        assert here.get("damaged") is None
        assert here.get("chunk") == {1}

    over_the_loop, here = (after_the_same(url, way, calls) for way in WAYS)
    assert here == over_the_loop
    assert here["get"][3] == {"corrupt:checksum": 1, "absent": 1}


def test_a_connection_that_is_lost_is_one_failure_that_is_retried(proxy: FaultProxy, url: str) -> None:
    def calls(here: Setting) -> None:
        proxy.arm(Fault(FaultKind.RESET, Direction.TO_CLIENT, after_bytes=SIZE // 2, count=1))
        assert here.get("chunk") == {1}
        assert proxy.fired == 1
        proxy.arm(Fault(FaultKind.RESET, Direction.TO_SERVER, after_bytes=SIZE // 2, count=1))
        here.put("other", 2)
        assert proxy.fired == 1
        assert here.get("other") == {2}

    over_the_loop, here = (after_the_same(url, way, calls, retries=1) for way in WAYS)
    assert here == over_the_loop
    assert (here["get"][5], here["put"][5]) == (1, 1)


def test_a_server_that_is_gone_fails_as_many_attempts_as_over_the_loop(proxy: FaultProxy, url: str) -> None:
    def calls(here: Setting) -> None:
        proxy.arm(Fault(FaultKind.RESET, Direction.TO_CLIENT))
        with here.chunk(2) as obj:
            swallowed(lambda: here.get("chunk"), StoreUnavailableError)
            swallowed(lambda: here.sync.exists("chunk"), StoreUnavailableError)
            swallowed(lambda: here.sync.put("chunk", obj), StoreUnavailableError)
            assert obj.get_ref_count() == 1
        proxy.disarm()

    settings = {"retries": 2, "retry_backoff": 0.01, "breaker_failures": 10, "errors": "raise"}
    over_the_loop, here = (after_the_same(url, way, calls, **settings) for way in WAYS)
    assert here == over_the_loop
    assert here["get"][5] == 2


def test_failures_in_threads_open_the_breaker_and_successes_keep_it_closed(proxy: FaultProxy, url: str) -> None:
    with setting(url, errors="raise", breaker_failures=2, breaker_reset=30) as here:
        for _ in range(2):
            proxy.arm(Fault(FaultKind.RESET, Direction.TO_CLIENT))
            swallowed(lambda: here.get("chunk"), StoreUnavailableError)
        assert here.connector.breaker_state.value == "open"
        proxy.disarm()
        swallowed(lambda: here.get("chunk"), StoreUnavailableError)
        assert here.counted()["get"][4]["CircuitOpenError"] == 1


def test_a_call_that_fails_by_itself_keeps_no_other_from_its_thread(url: str) -> None:
    with setting(url, query="io=auto&max_value_bytes=100000", errors="raise") as here:
        too_large = here.memory.allocate((200_000,), "uint8")
        assert too_large is not None
        with too_large, pytest.raises(ValueTooLargeError):
            here.sync.put("too-large", too_large)
        before = here.calls_here("get")
        assert here.get("chunk") == {1}
        assert here.calls_here("get") == before + 1


def test_connections_that_the_server_closed_while_they_were_idle_fail_no_call(proxy: FaultProxy, url: str) -> None:
    with setting(url, errors="raise") as here:
        for _ in range(5):
            proxy.drop_all()
            assert here.get("chunk") == {1}
            here.put("chunk", 1)
            assert here.sync.exists("chunk")
        assert not here.counted()["get"][4]


def test_a_server_that_stalls_ends_the_call_and_counts_against_it(proxy: FaultProxy, url: str) -> None:
    with setting(url, errors="raise", stall_timeout=0.4, breaker_failures=1) as here:
        proxy.arm(STALL)
        swallowed(lambda: here.get("chunk"), StoreStalledError)
        assert here.connector.breaker_state.value == "open"
        proxy.disarm()


def test_the_deadline_of_the_operation_ends_it(proxy: FaultProxy, url: str) -> None:
    def calls(here: Setting) -> None:
        proxy.arm(STALL)
        with pytest.raises(OperationTimeoutError) as caught:
            here.sync.exists("chunk")
        assert caught.value.seconds == pytest.approx(0.3)
        assert here.connector.breaker_state.value == "open"
        proxy.disarm()

    settings = {"errors": "raise", "stall_timeout": 20, "operation_timeout": 0.3, "breaker_failures": 1}
    over_the_loop, here = (after_the_same(url, way, calls, **settings) for way in WAYS)
    assert here == over_the_loop


def test_the_timeout_of_the_caller_ends_it_and_says_so(proxy: FaultProxy, url: str) -> None:
    def calls(here: Setting) -> None:
        proxy.arm(STALL)
        with pytest.raises(SyncTimeoutError) as caught:
            here.get("chunk", timeout=0.2)
        assert caught.value.seconds == 0.2
        proxy.disarm()
        assert here.get("chunk") == {1}

    over_the_loop, here = (after_the_same(url, way, calls, stall_timeout=20) for way in WAYS)
    assert here == over_the_loop


@pytest.mark.parametrize("scheme", ["valkey", "valkey-ring"])
def test_the_timeout_of_the_caller_ends_it_in_time_also_while_the_loop_is_held_up(
    proxy: FaultProxy, url: str, scheme: str
) -> None:
    url = url.replace("valkey", scheme, 1)
    freed = threading.Event()
    with setting(url, operation_timeout=20, stall_timeout=20) as here:
        before = here.calls_here("exists")
        proxy.arm(STALL)
        here.connector.context.owner.loop.call_soon_threadsafe(freed.wait, 15)
        began = time.monotonic()
        try:
            with pytest.raises(SyncTimeoutError):
                here.sync.exists("chunk", 0.3)
            assert time.monotonic() - began < 5
        finally:
            freed.set()
            proxy.disarm()
        assert here.calls_here("exists") == before + 1


def test_the_deadline_of_the_operation_that_the_loop_was_too_late_for_is_its_failure(
    proxy: FaultProxy, url: str
) -> None:
    freed = threading.Event()
    with setting(url, operation_timeout=0.3, stall_timeout=20) as here:
        proxy.arm(STALL)
        here.connector.context.owner.loop.call_soon_threadsafe(freed.wait, 1)
        try:
            with pytest.raises(OperationTimeoutError):
                here.sync.exists("chunk", 20)
        finally:
            freed.set()
            proxy.disarm()


def test_a_handler_of_a_signal_may_make_a_call_amid_the_counting_of_another(url: str) -> None:
    with setting(url) as here:
        metrics, budget = here.connector.metrics, here.connector._runner.budget
        with metrics.counting, budget._lock:  # where the handler interrupts the thread
            assert here.sync.exists("chunk") is True
            assert here.get("chunk") == {1}


def test_a_get_that_finds_the_arena_full_waits_for_room_on_the_loop(url: str) -> None:
    with setting(url, room=2 * SIZE) as here:
        held = [here.chunk(9), here.chunk(9)]

        def release() -> None:
            while not here.memory.statistics().waiters:
                pass
            held.pop().ref_count_down()

        releasing = threading.Thread(target=release)
        releasing.start()
        assert here.get("chunk") == {1}
        releasing.join()
        held.pop().ref_count_down()
        assert here.counted()["get"][0] == 2


def test_closing_ends_calls_in_threads_after_the_grace_period(proxy: FaultProxy, url: str) -> None:
    with setting(url, errors="raise", stall_timeout=20, close_grace=0.1) as here:
        proxy.arm(STALL)
        with ThreadPoolExecutor(2) as pool:
            call = pool.submit(here.get, "chunk")
            assert proxy.wait_fired(10)
            assert here.connector.in_flight == 1
            assert here.counted()["get"][-1] == 1
            here.sync.close()
            with pytest.raises(ConnectorClosedError):
                call.result(10)
        assert here.connector.in_flight == 0
        assert here.counted()["get"][4] == {"ConnectorClosedError": 1}
        swallowed(lambda: here.sync.exists("chunk"), ConnectorClosedError)


def test_closing_lets_a_call_in_a_thread_finish_in_the_grace_period(proxy: FaultProxy, url: str) -> None:
    with setting(url, errors="raise", stall_timeout=20, close_grace=10) as here:
        proxy.arm(STALL)
        with ThreadPoolExecutor(2) as pool:
            call = pool.submit(here.get, "chunk")
            assert proxy.wait_fired(10)
            closing = pool.submit(here.sync.close)
            while not here.connector.is_closed:
                pass
            proxy.disarm()
            assert call.result(5) == {1}
            closing.result(5)


def test_closing_the_loop_under_calls_in_threads_says_that_the_connector_is_closed(proxy: FaultProxy, url: str) -> None:
    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            with setting(url, errors="raise", stall_timeout=20, close_grace=0.01) as here:
                proxy.arm(STALL)
                calls = [pool.submit(here.get, "chunk") for _ in range(4)]
                assert proxy.wait_fired(10)
            proxy.disarm()
            for call in calls:
                with pytest.raises(ConnectorClosedError):
                    call.result(10)


def test_sixteen_threads_get_their_own_answers_while_the_connector_is_closed(url: str) -> None:
    with setting(url, errors="raise") as here:
        begun = threading.Barrier(17)

        def work(number: int) -> int:
            done = 0
            key = f"key-{number}"
            try:
                for turn in range(10_000):
                    here.put(key, (number + turn) % 251)
                    assert here.get(key) == {(number + turn) % 251}
                    assert here.sync.exists(key)
                    assert not here.sync.exists(f"absent-{number}")
                    if turn == 10:
                        begun.wait(20)
                    done += 1
            except ConnectorClosedError:
                pass
            return done

        with ThreadPoolExecutor(16) as pool:
            calls = [pool.submit(work, number) for number in range(16)]
            begun.wait(20)
            here.sync.close()
            assert all(call.result(20) >= 10 for call in calls)
        counted = here.counted()
        assert counted["put"][-1] == counted["get"][-1] == counted["exists"][-1] == 0
        assert here.calls_here("get") > 16


@pytest.mark.parametrize("operation", ["exists", "get", "put"])
def test_an_interrupt_closes_the_connection_and_holds_nothing(proxy: FaultProxy, url: str, operation: str) -> None:
    with setting(url, errors="raise", stall_timeout=20) as here, here.chunk(2) as obj:

        def interrupt() -> None:
            assert proxy.wait_fired(10)
            os.kill(os.getpid(), signal.SIGINT)

        calls: dict[str, Callable[[str], object]] = {
            "exists": here.sync.exists,
            "get": here.sync.get,
            "put": lambda key: here.sync.put(key, obj),
        }
        before = here.calls_here(operation)
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=SIZE // 2 if operation == "get" else 0))
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            calls[operation]("chunk")
        interrupting.join()
        proxy.disarm()
        assert here.calls_here(operation) == before + 1
        assert obj.get_ref_count() == 1
        assert here.connector.in_flight == 0
        assert here.memory.statistics().live_objects == 1
        assert here.counted()[operation][-1] == 0
        here.put("chunk", 3)
        assert here.get("chunk") == {3}


def test_a_lease_that_is_recalled_interrupts_the_thread(proxy: FaultProxy, url: str) -> None:
    with setting(url, errors="raise", stall_timeout=20) as here:
        lease = Lease()

        def get() -> None:
            with under(lease):
                here.get("chunk")

        proxy.arm(STALL)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(get)
            assert proxy.wait_fired(10)
            lease.recall()
            assert lease.wait_idle(5)
            with pytest.raises((ReleasedObjectError, StoreUnavailableError)):
                call.result(5)
        proxy.disarm()


def test_a_recreated_connector_has_connections_of_its_own(proxy: FaultProxy, url: str) -> None:
    with setting(url, errors="raise", stall_timeout=20, close_grace=0.1) as here:
        proxy.arm(STALL)
        before = here.sync.own_thread
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(here.get, "chunk")
            assert proxy.wait_fired(10)
            asyncio.run(here.manager.recreate(here.connector))
            assert here.sync.own_thread is not before
            with pytest.raises(StoreUnavailableError, match="recreated during get"):
                call.result(10)
        proxy.disarm()
        counted = here.calls_here("exists")
        while here.calls_here("exists") == counted:
            assert here.sync.exists("chunk")


def test_a_bypassed_connector_asks_no_store(url: str) -> None:
    with setting(url) as here:
        here.connector.bypass = True
        assert here.get("chunk") is None
        assert here.counted()["get"][3] == {"bypassed": 1}
        here.connector.bypass = False
        assert here.get("chunk") == {1}


def test_arguments_are_checked_in_threads_as_well(url: str) -> None:
    with setting(url) as here, LocalCPUBackend(SIZE) as other:
        with pytest.raises(InvalidKeyError):
            here.sync.get("")
        foreign = other.allocate((16,), "uint8")
        assert foreign is not None
        with foreign, pytest.raises(ForeignObjectError):
            here.sync.put("chunk", foreign)
        released = here.chunk(1)
        released.ref_count_down()
        with pytest.raises(ReleasedObjectError):
            here.sync.put("chunk", released)


@pytest.mark.parametrize("scheme", ["hot+redis", "fault+redis", "audit+redis"])
def test_wrapped_stores_go_over_the_loop(scheme: str) -> None:
    with ConnectorManager(f"{scheme}://localhost:1", local_cpu_backend=LocalCPUBackend(SIZE)) as manager:
        assert manager.create_connector().sync.own_thread is None


def test_a_fork_is_refused_and_disturbs_its_parent_not(valkey_server: ValkeyServer) -> None:
    script = f"""
        import os, sys, threading
        from lmcache_connect import ConnectorManager, LocalCPUBackend
        from lmcache_connect.errors import ForkedProcessError
        with LocalCPUBackend(1 << 20) as memory, ConnectorManager({valkey_server.url()!r}, None, memory) as manager:
            sync = manager.create_connector().sync
            with memory.allocate((4096,), "uint8") as obj:
                sync.put("fork", obj)
                while not sync._connector.metrics.in_threads("put").calls:
                    sync.put("fork", obj)
                going = True
                def work():
                    while going:
                        sync.exists("fork")
                threads = [threading.Thread(target=work) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for _ in range(20):
                    child = os.fork()
                    if not child:
                        refused = 0
                        for call, *args in ((sync.exists,), (sync.get,), (sync.put, obj)):
                            try:
                                call("fork", *args)
                            except ForkedProcessError:
                                refused += 1
                        os._exit(0 if refused == 3 else 1)
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                going = False
                for thread in threads:
                    thread.join()
                assert sync.exists("fork")
                with sync.get("fork") as found:
                    assert found.get_size() == 4096
                sync.remove("fork")
        print("done")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize("query", WAYS)
def test_chunks_in_memory_of_the_caller_are_moved_and_counted_alike_in_both_ways(url: str, query: str) -> None:
    with setting(url, query) as here:
        held = bytearray(b"." * 10 + bytes(SIZE) + b".")
        regions = [memoryview(held)[10:5000], memoryview(held)[5000:-1]]
        assert here.sync.put_from("mine", [b"\x07" * 1000, b"\x07" * (SIZE - 1000)])
        assert here.sync.get_into("mine", regions)
        assert held == b"." * 10 + b"\x07" * SIZE + b"."
        assert not here.sync.get_into("absent", regions)
        assert not here.sync.get_into("mine", bytearray(SIZE - 1))  # another length: the loop finds that out
        stats = here.connector.statistics()
        assert (stats["get_into"].calls, stats["get_into"].bytes, stats["put_from"].bytes) == (3, SIZE, SIZE)
        assert stats["get_into"].misses == {"absent": 1, "mismatch": 1}
        assert here.calls_here("put_from") == (query != "io=loop")
        assert here.calls_here("get_into") == 2 * (query != "io=loop")


def test_a_blocking_put_from_memory_of_the_caller_that_fails_is_not_tried_again(url: str, proxy: FaultProxy) -> None:
    with setting(url, retries=3) as here:
        assert here.sync.put_from("mine", bytes(1000))
        proxy.arm(Fault(FaultKind.RESET, Direction.TO_SERVER, after_bytes=1, count=1))
        with pytest.raises(StoreUnavailableError):
            here.sync.put_from("mine", bytes(1000))
        assert here.connector.statistics()["put_from"].retries == 0
        proxy.arm(Fault(FaultKind.RESET, Direction.TO_CLIENT, after_bytes=1, count=1))
        assert here.sync.get_into("mine", bytearray(1000))  # a get is
        assert here.connector.statistics()["get_into"].retries == 1
