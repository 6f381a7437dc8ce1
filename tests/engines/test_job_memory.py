"""An engine frees its memory while jobs are under way. Where it ends its process, each test has one of its own."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from lmcache_connect.errors import BackendClosedError
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer

from .conftest import OpenPort

ROOT: Final = Path(__file__).resolve().parents[2]
SIZE: Final = 1 << 20

TOOLS: Final = """
import ctypes, faulthandler, sys, threading, time
from lmcache_connect import memory_at
from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy
from tests.engines.mapped_engine import MappedEngine

faulthandler.enable()
SIZE, COUNT = 1 << 20, 64
HOST, PORT, OPTIONS = sys.argv[1], int(sys.argv[2]), sys.argv[3]
engine = MappedEngine(SIZE, COUNT)
buffers = [engine.allocate(SIZE).byte_array for _ in range(COUNT)]
"""


def run_script(script: str, server: ValkeyServer, options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TOOLS + textwrap.dedent(script), server.host, str(server.port), options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )


UNDER_WAY: Final = """
port = JobPort(f"redis://{{HOST}}:{{PORT}}?{{OPTIONS}}", deadline=30)
{guard}
keys = [f"k{{number}}" for number in range(COUNT)]
jobs = []
for _ in range(20):
    for number in range(0, COUNT, 8):
        jobs.append(port.submit_put(keys[number : number + 8], buffers[number : number + 8]))
        jobs.append(port.submit_get(keys[number : number + 8], buffers[number : number + 8]))
port.wait(jobs[1])
engine.close()
assert engine.is_closed
reasons = {{port.wait(job).reason for job in jobs if job != jobs[1]}}
assert reasons <= {{None, "released", "shed"}} and "released" in reasons, reasons
port.close()
print("closed")
"""


@pytest.mark.parametrize("io", ["io=thread", "io=loop"])
def test_an_engine_that_frees_its_memory_waits_for_the_jobs_that_touch_it(valkey_server: ValkeyServer, io: str) -> None:
    done = run_script(UNDER_WAY.format(guard='port.guard(engine, "close")'), valkey_server, io)
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


def test_without_the_guard_the_process_would_end(valkey_server: ValkeyServer) -> None:
    done = run_script(UNDER_WAY.format(guard=""), valkey_server, "io=thread")
    assert done.returncode != 0
    # The kernel refuses to receive into memory that is gone (EFAULT), and a thread that hashes it ends the process.
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS, 1)


STALLED: Final = """
with FaultProxy(HOST, PORT) as proxy:
    port = JobPort(f"redis://127.0.0.1:{{proxy.port}}?{{OPTIONS}}", deadline=60, stall_timeout=50, operation_timeout=60)
    port.guard(engine, "close")
    keys = [f"k{{number}}" for number in range(8)]
    assert port.wait(port.submit_put(keys, buffers[:8])).ok
    proxy.arm(Fault(FaultKind.STALL, Direction.{direction}, after_bytes=SIZE // 2))
    job = port.{submit}(keys, buffers[:8])
    assert proxy.wait_fired(10)
    ended = threading.Event()
    if {holds}:
        began = threading.Event()
        port.manager.owner.loop.call_soon_threadsafe(lambda: (began.set(), ended.wait(20)))
        assert began.wait(10)
    started = time.monotonic()
    engine.close()
    assert engine.is_closed
    assert time.monotonic() - started < 5, time.monotonic() - started
    assert port.wait(job).reason == "released"
    proxy.disarm()
    ended.set()
    assert port.wait(port.submit_exists(keys)).error is None
    port.close()
print("closed")
"""


@pytest.mark.parametrize("io", ["io=thread", "io=loop"])
@pytest.mark.parametrize("holds", [False, True], ids=["loop runs", "loop stands still"])
@pytest.mark.parametrize(("submit", "direction"), [("submit_get", "TO_CLIENT"), ("submit_put", "TO_SERVER")])
def test_a_transfer_that_stalls_is_ended_before_the_engine_frees_its_memory(
    valkey_server: ValkeyServer, io: str, holds: bool, submit: str, direction: str
) -> None:
    done = run_script(STALLED.format(holds=holds, submit=submit, direction=direction), valkey_server, io)
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


def test_after_its_memory_is_gone_a_port_refuses_loads_and_stores_and_still_looks_up(
    open_port: OpenPort, valkey_url: str
) -> None:
    port = open_port(valkey_url)
    assert port.release_memory()
    assert port.release_memory()
    with pytest.raises(BackendClosedError):
        port.submit_get(["k"], [bytearray(8)])
    with pytest.raises(BackendClosedError):
        port.submit_put(["k"], [bytes(8)])
    found = port.wait(port.submit_exists(["k"]))
    assert found is not None
    assert found.error is None


def test_jobs_may_go_on_for_the_grace_period_before_the_memory_is_freed(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    job = port.submit_put([uuid4().hex for _ in range(16)], [os.urandom(SIZE) for _ in range(16)])
    assert port.release_memory(grace=20)
    result = port.wait(job)
    assert result is not None
    assert result.ok


@pytest.mark.parametrize("io", ["io=thread", "io=loop"])
def test_no_view_of_the_engines_memory_is_left_when_a_result_is_there(
    open_port: OpenPort, valkey_server: ValkeyServer, io: str
) -> None:
    keys = [uuid4().hex for _ in range(4)]
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy:
        port = open_port(f"redis://{proxy.host}:{proxy.port}?{io}", deadline=0.5, stall_timeout=60)
        for fault in (None, FaultKind.STALL, FaultKind.RESET):
            mapped = mmap.mmap(-1, 4 * SIZE)
            view = memoryview(mapped)
            parts = [view[start : start + SIZE] for start in range(0, 4 * SIZE, SIZE)]
            if fault is not None:
                proxy.arm(Fault(fault, Direction.TO_CLIENT, after_bytes=SIZE + 1000))
            for submit in (port.submit_put, port.submit_get) if fault is None else (port.submit_get,):
                result = port.wait(submit(keys, parts, deadline=10 if fault is None else 0.5))
                assert result is not None
                assert result.ok == (fault is None)
            for part in parts:
                part.release()
            view.release()
            mapped.close()  # raises where a view is left
            proxy.disarm()
