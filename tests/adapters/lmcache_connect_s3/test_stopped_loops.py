"""The owning loop stops while a put moves bytes in a thread: the buffer is let go before the put raises."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.errors import LoopNotRunningError
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RcloneServer

SIZE: Final = 32 << 20
CONFIG: Final = ConnectorConfig.load(retries=0, operation_timeout=60, stall_timeout=30)

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",  # a loop that has stopped closes nothing
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a stopped loop leaves behind is collected here, where its warnings are expected."""
    yield
    gc.collect()


def threads_that_move_bytes() -> list[str]:
    """Where each thread stands that has taken a connection over, and uses it."""
    found = []
    for frame in sys._current_frames().values():
        deeper: FrameType | None = frame
        while deeper is not None:
            if deeper.f_code.co_filename.endswith("thread_stream.py"):
                found.append(deeper.f_code.co_qualname)
            deeper = deeper.f_back
    return found


def test_a_put_whose_loop_stops_raises_when_its_thread_has_let_go_of_the_buffer(rclone_server: RcloneServer) -> None:
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever, daemon=True)
    running.start()
    memory = LocalCPUBackend(2 * SIZE)
    chunk = memory.allocate((SIZE,), "uint8")
    assert chunk is not None
    with FaultProxy(rclone_server.host, rclone_server.port) as proxy:
        url = rclone_server.url("stopped", endpoint=f"http://{proxy.host}:{proxy.port}", io="thread")
        connector = ConnectorManager(url, loop, memory, CONFIG).create_connector()
        proxy.arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=SIZE // 2))
        raised: list[LoopNotRunningError] = []

        def put() -> None:
            with pytest.raises(LoopNotRunningError) as caught:
                connector.sync.put("k", chunk, timeout=1.5)
            raised.append(caught.value)

        putting = threading.Thread(target=put)
        putting.start()
        assert proxy.wait_fired(10)
        loop.call_soon_threadsafe(loop.stop)
        running.join(10)
        began = time.monotonic()
        putting.join(20)
        assert raised
        assert time.monotonic() - began < 15, "it waited for the connection to stall"
        assert not threads_that_move_bytes()
    loop.close()
