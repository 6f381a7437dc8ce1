"""The owning loop stops while a put that others wait for is under way: the buffer is let go before the put raises."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final
from uuid import uuid4

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import LMCacheConnectError, LoopNotRunningError
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.transport.transfer import Sending
from lmcache_connect.transport.wire import Wire

SIZE: Final = 32 << 20
OLD, NEW = b"o" * SIZE, b"n" * SIZE

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",  # a loop that has stopped closes nothing
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


class Stopping:
    """A connector on a loop that the test stops, and a chunk that is on its way to a store that has stopped reading."""

    def __init__(self, server: ValkeyServer, proxy: FaultProxy, options: str) -> None:
        self.key = uuid4().hex
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.proxy = proxy
        self.memory = LocalCPUBackend(4 * SIZE)
        config = ConnectorConfig.load(retries=0, operation_timeout=60, allocate_timeout=30)
        url = f"valkey://{proxy.host}:{proxy.port}?layout=lmcache&{options}"
        self.manager = ConnectorManager(url, self.loop, self.memory, config)
        self.connector: ManagedConnector = self.manager.create_connector()
        self.url = f"valkey://{server.host}:{server.port}?layout=lmcache"
        chunk = self.memory.allocate((SIZE,), "uint8")
        assert chunk is not None
        self.chunk = chunk
        self.chunk.byte_array[:] = OLD
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=SIZE // 2))

    def stop(self) -> None:
        """Ends the loop's thread, once the put is under way."""
        assert self.proxy.wait_fired(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def go_on(self) -> None:
        """The caller uses its memory again, and the store reads again."""
        self.chunk.byte_array[:] = NEW
        self.proxy.disarm()

    def stored(self) -> set[int]:
        """The bytes of what the store holds now."""
        with ConnectorManager(self.url, None, None, ConnectorConfig.load(max_local_cpu_bytes=2 * SIZE)) as manager:
            found = manager.create_connector().sync.get(self.key)
            if found is None:
                return set()
            with found:
                return set(bytes(found.byte_array))


Start = Callable[[str], Stopping]


@pytest.fixture
def start(valkey_server: ValkeyServer) -> Iterator[Start]:
    made: list[Stopping] = []
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:

        def make(options: str) -> Stopping:
            made.append(Stopping(valkey_server, proxy, options))
            return made[-1]

        yield make
    made.clear()
    gc.collect()


def put_from_a_thread(stopping: Stopping) -> LMCacheConnectError:
    """What `sync.put` raised."""
    raised: list[LMCacheConnectError] = []

    def put() -> None:
        with pytest.raises(LoopNotRunningError) as caught:
            stopping.connector.sync.put(stopping.key, stopping.chunk, timeout=1.5)
        raised.append(caught.value)

    thread = threading.Thread(target=put)
    thread.start()
    stopping.stop()
    thread.join(20)
    return raised[0]


def put_from_another_loop(stopping: Stopping) -> LMCacheConnectError:
    """What `put` raised on a loop of its own, when the owning loop was closed."""

    async def put() -> LMCacheConnectError:
        putting = asyncio.create_task(stopping.connector.put(stopping.key, stopping.chunk))
        await asyncio.to_thread(stopping.stop)
        stopping.loop.close()
        with pytest.raises(LoopNotRunningError) as caught:
            await asyncio.wait_for(putting, 20)
        return caught.value

    return asyncio.run(put())


def threads_that_read_the_chunk() -> list[str]:
    """Where each thread stands that sends from memory of a chunk. A copy may still be on its way: it is read-only."""
    frames = []
    for frame in sys._current_frames().values():
        deeper: FrameType | None = frame
        while deeper is not None:
            transfer = deeper.f_locals.get("transfer")
            if isinstance(transfer, Sending) and not all(
                view.readonly for view in [*transfer._views, *transfer.pending]
            ):
                frames.append(deeper.f_code.co_qualname)
            deeper = deeper.f_back
    return frames


@pytest.mark.parametrize("put", [put_from_a_thread, put_from_another_loop])
def test_a_put_whose_loop_stops_raises_when_its_thread_has_let_go_of_the_buffer(
    start: Start, put: Callable[[Stopping], LMCacheConnectError]
) -> None:
    stopping = start("io=thread")
    put(stopping)
    assert not threads_that_read_the_chunk()
    stopping.go_on()
    # All of it may have been on its way already. Then it is there as it was, and nothing of what followed it.
    assert stopping.stored() in (set(), set(OLD[:1]))


def test_a_put_that_was_given_up_sends_nothing_when_its_loop_runs_again(start: Start) -> None:
    stopping = start("io=loop")
    put_from_a_thread(stopping)
    # Counted where they are sent: what the kernel had taken by then reaches the proxy later, and may be many megabytes.
    wires = [
        wire
        for wire in gc.get_objects()
        if isinstance(wire, Wire) and wire.bytes_sent > SIZE // 4 and wire.peer.endswith(f":{stopping.proxy.port}")
    ]
    sent = [wire.bytes_sent for wire in wires]
    assert len(sent) == 1
    stopping.go_on()
    stopping.thread = threading.Thread(target=stopping.loop.run_forever, daemon=True)
    stopping.thread.start()
    assert stopping.connector.sync.get(stopping.key) is None
    assert [wire.bytes_sent for wire in wires] == sent
    stopping.manager.__exit__(None, None, None)
    assert stopping.stored() == set()
    stopping.loop.call_soon_threadsafe(stopping.loop.stop)
    stopping.thread.join(10)
    stopping.loop.close()
    stopping.chunk.ref_count_down()
    assert stopping.memory.statistics().reserved == 0
