"""An engine frees its memory while transfers are under way. Each test is a process of its own: a violation ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

from lmcache_connect.testing import ValkeyServer

ROOT: Final = Path(__file__).resolve().parents[2]

TOOLS: Final = """
import asyncio, concurrent.futures, faulthandler, logging, sys, threading, time
from lmcache_connect import ChunkMetadata, ConnectorConfig, ConnectorManager
from lmcache_connect.engines.memory_guard import MemoryGuard
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy
from tests.engines.mapped_engine import MappedEngine, MappedMemory

faulthandler.enable()
SIZE = {size}
CHUNK = ChunkMetadata.of((SIZE,), "uint8")
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon=True)
thread.start()
engine = MappedEngine(SIZE, {count})
memory = MappedMemory(engine, SIZE * {count}, None)
config = ConnectorConfig.load(close_grace={grace}, operation_timeout=60)
manager = ConnectorManager("{url}", loop, memory, config)
connector = manager.create_connector()
guard = MemoryGuard(memory, loop, manager.close, {grace})
guard.watch(engine, "close")

async def put(key):
    theirs = engine.allocate(SIZE)
    if theirs is None:
        return
    with memory.borrowed(theirs, CHUNK) as obj:
        await connector.put(key, obj)

def start(call):
    return asyncio.run_coroutine_threadsafe(call, loop)

def outcome(call):
    try:
        return call.result(20)
    except BaseException as error:
        return type(error).__name__
"""


def run_script(
    script: str, url: str, *, size: int, count: int, grace: float, unguarded: bool = False
) -> subprocess.CompletedProcess[str]:
    tools = TOOLS.format(url=url, size=size, count=count, grace=grace)
    if unguarded:
        tools = tools.replace('guard.watch(engine, "close")\n', "")
    return subprocess.run(
        [sys.executable, "-c", tools + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )


PUTS_AND_CLOSE: Final = """
puts = [start(put(f"k{number}")) for number in range(400)]
puts[20].result(20)
engine.close()
assert engine.is_closed
outcomes = {outcome(call) for call in puts}
assert outcomes <= {None, "ConnectorClosedError", "BackendClosedError", "ReleasedObjectError"}, outcomes
print("closed")
"""


@pytest.mark.parametrize("io", ["thread", "loop"])
@pytest.mark.parametrize("grace", [0.0001, 5])  # the operations are cancelled, or may finish
def test_an_engine_that_closes_while_puts_are_under_way_waits_for_them(valkey_url: str, io: str, grace: float) -> None:
    done = run_script(PUTS_AND_CLOSE, f"{valkey_url}?io={io}", size=256 << 10, count=400, grace=grace)
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


STALLED: Final = """
with FaultProxy("{host}", {port}) as proxy:
    manager._url = None
    connector = manager.create_connector(f"valkey://127.0.0.1:{{proxy.port}}?{options}")
    {before}
    proxy.arm(Fault(FaultKind.STALL, Direction.{direction}, after_bytes=SIZE // 2))
    call = start({call})
    assert proxy.wait_fired(10)
    {meanwhile}
    started = time.monotonic()
    engine.close()
    assert engine.is_closed
    assert time.monotonic() - started < 4, time.monotonic() - started
    proxy.disarm()
    {after}
print("closed")
"""


@pytest.mark.parametrize("options", ["io=thread", "io=loop"])
@pytest.mark.parametrize("loop", ["runs", "stopped", "own"])
@pytest.mark.parametrize("operation", ["put", "get"])
def test_a_transfer_that_stalls_is_interrupted_before_the_engine_frees_its_memory(
    valkey_server: ValkeyServer, options: str, loop: str, operation: str
) -> None:
    script = STALLED.format(
        host=valkey_server.host,
        port=valkey_server.port,
        options=options,
        before='start(put("k")).result(20)' if operation == "get" else "",
        direction="TO_CLIENT" if operation == "get" else "TO_SERVER",
        call='connector.get("k")' if operation == "get" else 'put("k")',
        meanwhile={
            "runs": "pass",
            "stopped": "loop.call_soon_threadsafe(loop.stop); thread.join(10)",
            "own": "close = engine.close; engine.close = lambda: start(close_there()).result(20)\n"
            "    async def close_there(): close()",
        }[loop],
        after={
            "runs": "print(outcome(call))",
            "stopped": "threading.Thread(target=loop.run_forever, daemon=True).start(); print(outcome(call))",
            "own": "print(outcome(call))",
        }[loop],
    )
    done = run_script(script, "memory://unused", size=16 << 20, count=4, grace=0.2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("closed\n")
    assert done.stdout.split()[0].endswith("Error"), done.stdout


def test_without_the_guard_the_process_would_end(valkey_url: str) -> None:
    done = run_script(
        PUTS_AND_CLOSE, f"{valkey_url}?io=thread", size=256 << 10, count=400, grace=0.0001, unguarded=True
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "")


HOLDING: Final = """
obj = memory.allocate_chunk(CHUNK)
view = obj.byte_array
obj.ref_count_down()
import lmcache_connect.engines.memory_guard as module
module._LET_GO_SECONDS = 0.2
assert engine.close() is None
assert not engine.is_closed, "freed under a view"
view[:4] = b"here"
del view
engine.close()
assert engine.is_closed
assert len(engine.free) == 4, "the reference on the engine's object was not released"
print("closed")
"""


def test_memory_that_somebody_holds_on_to_stays_mapped() -> None:
    done = run_script(HOLDING, "memory://unused", size=64 << 10, count=4, grace=0.2)
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
    assert "engine_memory_kept" in done.stderr
