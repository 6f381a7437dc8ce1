"""Who runs on which loop, and what happens when a caller elsewhere goes away."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from lmcache_connect import ConnectorClosedError, LocalCPUBackend, MemoryObj
from lmcache_connect.errors import LoopNotRunningError, SyncCallOnLoopError, SyncTimeoutError
from lmcache_connect.loop import LoopOwner


@pytest.fixture
def owner() -> Iterator[LoopOwner]:
    made = LoopOwner.start()
    yield made
    made.close_sync()


async def here() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    return asyncio.get_running_loop(), threading.current_thread()


@pytest.mark.asyncio
async def test_an_adopted_loop_is_the_running_one_and_runs_awaits_directly() -> None:
    owner = LoopOwner.adopt()
    task = asyncio.current_task()

    async def which() -> asyncio.Task[object] | None:
        return asyncio.current_task()

    assert owner.is_current()
    assert await owner.run(which) is task
    await owner.close()


def test_adopting_without_a_running_loop_is_refused() -> None:
    with pytest.raises(LoopNotRunningError, match="no event loop is running"):
        LoopOwner.adopt()


def test_a_started_loop_runs_in_a_thread_of_its_own_and_ends_with_close() -> None:
    owner = LoopOwner.start("my-loop")
    loop, thread = owner.run_sync("here", 5, here)
    assert loop is owner.loop
    assert thread.name == "my-loop"
    owner.close_sync()
    owner.close_sync()
    assert not thread.is_alive()
    assert loop.is_closed()
    with pytest.raises(ConnectorClosedError):
        owner.run_sync("here", 5, here)


@pytest.mark.asyncio
async def test_an_await_from_another_loop_runs_on_the_owning_one(owner: LoopOwner) -> None:
    loop, _ = await owner.run(here)
    assert loop is owner.loop
    assert loop is not asyncio.get_running_loop()


@pytest.mark.asyncio
async def test_errors_and_context_variables_cross_the_hop(owner: LoopOwner) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("from the caller")

    async def look() -> str:
        return variable.get()

    async def fail() -> None:
        raise KeyError("inside")

    assert await owner.run(look) == "from the caller"
    with pytest.raises(KeyError, match="inside"):
        await owner.run(fail)


@pytest.mark.asyncio
async def test_cancelling_the_caller_cancels_the_operation_and_waits_for_its_end(owner: LoopOwner) -> None:
    started = threading.Event()
    ended = threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    call = asyncio.ensure_future(owner.run(endless))
    await asyncio.to_thread(started.wait, 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


@pytest.mark.asyncio
async def test_a_result_that_comes_too_late_is_released(owner: LoopOwner, local_cpu_backend: LocalCPUBackend) -> None:
    started = threading.Event()

    async def stubborn() -> MemoryObj:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass  # a careless connector: it answers all the same
        return await local_cpu_backend.allocate_async((4096,), "uint8")

    call = asyncio.ensure_future(owner.run(stubborn))
    await asyncio.to_thread(started.wait, 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert local_cpu_backend.statistics().live_objects == 0


def test_a_result_for_a_caller_whose_loop_was_closed_under_it_is_released(
    owner: LoopOwner, local_cpu_backend: LocalCPUBackend
) -> None:
    started, finished = threading.Event(), threading.Event()

    async def stubborn() -> MemoryObj:
        started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
        finished.set()
        return await local_cpu_backend.allocate_async((4096,), "uint8")

    async def begin(call: Coroutine[Any, Any, MemoryObj]) -> None:
        tasks.append(asyncio.get_running_loop().create_task(call))
        await asyncio.to_thread(started.wait, 5)

    tasks: list[asyncio.Task[MemoryObj]] = []
    call = owner.run(stubborn)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin(call))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    tasks.clear()
    call.close()  # as the garbage collector does it
    assert finished.wait(5)
    owner.run_sync("here", 5, here)  # behind what the loop still had to do
    assert local_cpu_backend.statistics().live_objects == 0


def test_a_synchronous_call_answers_from_a_thread_without_a_loop(owner: LoopOwner) -> None:
    assert owner.run_sync("here", 5, here)[0] is owner.loop


def test_a_synchronous_call_on_the_owning_loops_own_thread_raises_at_once(owner: LoopOwner) -> None:
    async def call() -> None:
        owner.run_sync("inner", 60, here)

    started = time.monotonic()
    with pytest.raises(SyncCallOnLoopError, match="inner was called synchronously"):
        owner.run_sync("outer", 60, call)
    assert time.monotonic() - started < 1


def test_a_synchronous_call_that_gets_no_answer_is_cancelled_and_times_out(
    owner: LoopOwner, local_cpu_backend: LocalCPUBackend
) -> None:
    ended = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    with pytest.raises(SyncTimeoutError, match=r"endless got no answer .* within 0.050 s"):
        owner.run_sync("endless", 0.05, endless)
    assert ended.is_set()


def test_a_loop_that_never_runs_is_an_error_and_not_a_hang() -> None:
    loop = asyncio.new_event_loop()
    owner = LoopOwner.of(loop)
    try:
        with pytest.raises(LoopNotRunningError, match="did not run within"):
            owner.run_sync("here", 0.05, here)
    finally:
        loop.close()
    with pytest.raises(LoopNotRunningError, match="closed"):
        owner.run_sync("here", 0.05, here)


def test_a_loop_that_is_closed_during_the_call_is_an_error_and_not_a_hang() -> None:
    started = threading.Event()

    async def endless() -> None:
        started.set()
        await asyncio.sleep(3600)

    async def until_started() -> LoopOwner:
        owner = LoopOwner.adopt()
        caller.append(threading.Thread(target=call, args=(owner,)))
        caller[0].start()
        await asyncio.to_thread(started.wait, 5)
        return owner

    def call(owner: LoopOwner) -> None:
        try:
            owner.run_sync("endless", 60, endless)
        except BaseException as error:
            outcome.append(error)

    caller: list[threading.Thread] = []
    outcome: list[BaseException] = []
    asyncio.run(until_started())
    caller[0].join(5)
    assert not caller[0].is_alive()
    assert isinstance(outcome[0], LoopNotRunningError)


def test_forgetting_to_close_warns_and_still_ends_the_thread() -> None:
    owner = LoopOwner.start()
    _, thread = owner.run_sync("here", 5, here)
    with pytest.warns(ResourceWarning, match="was never closed"):
        del owner
        gc.collect()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.asyncio
async def test_hundreds_of_calls_from_several_threads_and_loops_get_their_own_answers(owner: LoopOwner) -> None:
    async def echo(number: int) -> int:
        await asyncio.sleep(0)
        return number

    def from_thread(start: int) -> list[int]:
        return [owner.run_sync("echo", 10, echo, start + i) for i in range(50)]

    threads = [asyncio.to_thread(from_thread, 1000 * i) for i in range(4)]
    awaited = await asyncio.gather(*(owner.run(echo, i) for i in range(200)))
    assert awaited == list(range(200))
    assert await asyncio.gather(*threads) == [[1000 * i + j for j in range(50)] for i in range(4)]


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    # CPython 3.12 and later warn of every fork of a process that has threads. That is the script's, and not of ours.
    forks = ["-W", "ignore:This process:DeprecationWarning"]
    return subprocess.run(
        [sys.executable, *forks, "-W", "error::ResourceWarning", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_fork_gets_a_named_error_and_leaves_the_parents_connection_alone(valkey_url: str) -> None:
    done = run_script(
        f"""
        import os
        from lmcache_connect import ConnectorManager
        from lmcache_connect.errors import ForkedProcessError
        with ConnectorManager({valkey_url!r}) as manager:
            connector = manager.create_connector()
            with manager.local_cpu_backend.allocate((4096,), "uint8") as chunk:
                connector.sync.put("k", chunk)
            child = os.fork()
            if child == 0:
                try:
                    connector.sync.get("k")
                except ForkedProcessError as error:
                    print("child:", error, flush=True)
                try:
                    manager.create_connector()
                except ForkedProcessError as error:
                    print("manager too", flush=True)
                connector.sync  # still an object, only unusable
                os._exit(0)
            os.waitpid(child, 0)
            with connector.sync.get("k") as chunk:
                print("parent:", len(chunk.byte_array), flush=True)
        """
    )
    assert done.stderr == ""
    assert "cannot be used in its fork" in done.stdout
    assert "manager too" in done.stdout
    assert "parent: 4096" in done.stdout


def test_a_process_that_closes_nothing_still_exits_promptly(valkey_url: str) -> None:
    started = time.monotonic()
    done = run_script(
        f"""
        import warnings
        warnings.simplefilter("ignore")
        from lmcache_connect import create_connector
        connector = create_connector({valkey_url!r})
        print(connector.sync.exists("k"))
        """
    )
    assert done.stdout == "False\n"
    assert done.returncode == 0
    assert time.monotonic() - started < 10
