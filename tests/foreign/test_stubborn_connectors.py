"""Whatever a plug-in does, deadlines hold, the process lives and ends, and other connectors go on."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, OperationTimeoutError
from lmcache_connect.errors import (
    AbandonedCallsError,
    ConnectorContractError,
    ConnectorFailureError,
    PluginImportError,
    PluginTypeError,
)

from ..adapters.lmcache_connect_redis.chunks import chunk, holds
from . import gate
from .strangers import stubborn

pytestmark = pytest.mark.asyncio

SHORT = {"operation_timeout": 0.2, "min_throughput": 1 << 40, "retries": 0, "close_grace": 0.2}


@pytest.fixture(autouse=True)
def gate_is_closed() -> Iterator[None]:
    gate.OPEN.clear()
    yield
    gate.OPEN.set()


@pytest_asyncio.fixture
async def manager() -> AsyncIterator[ConnectorManager]:
    with LocalCPUBackend(8 << 20) as backend:
        async with ConnectorManager(local_cpu_backend=backend, config=ConnectorConfig.load(**SHORT)) as manager:
            yield manager
            gate.OPEN.set()
        while any(lane.abandoned_calls for lane in lanes(manager)):
            await asyncio.sleep(0.001)
        gc.collect()
        assert backend.statistics().reserved == 0, backend.statistics()


def lanes(manager: ConnectorManager) -> list[Any]:
    return [connector.context.lane for connector in manager.known_connectors]


async def connected(manager: ConnectorManager, name: str) -> ManagedConnector:
    return await manager.open_connector(f"external://h:0/tests.foreign.strangers.stubborn/?connector_name={name}")


async def test_a_get_that_swallows_its_cancellation_ends_at_its_deadline_and_is_counted(
    manager: ConnectorManager,
) -> None:
    connector = await connected(manager, "Stubborn")
    started = time.monotonic()
    with pytest.raises(OperationTimeoutError):
        await connector.get("k")
    assert time.monotonic() - started < 0.7
    assert connector.context.lane.abandoned_calls == 1
    assert await connector.exists("k") is False  # it goes on


async def test_a_put_that_swallows_its_cancellation_reads_memory_of_its_own(manager: ConnectorManager) -> None:
    connector = await connected(manager, "Stubborn")
    with chunk(manager.local_cpu_backend, "k", 4096) as obj:
        before = bytes(obj.byte_array)
        with pytest.raises(OperationTimeoutError):
            await connector.put("k", obj)
        assert connector.context.lane.abandoned_bytes == 4096
        obj.byte_array[:] = bytes(4096)
        gate.OPEN.set()
        while connector.context.lane.abandoned_calls:
            await asyncio.sleep(0.001)
    wrapped: Any = connector.wrapped
    assert wrapped.seen == [before]


@pytest.mark.parametrize("name", ["Stubborn", "Blocking"])
async def test_a_close_that_does_not_end_is_left_behind_within_its_grace(manager: ConnectorManager, name: str) -> None:
    connector = await connected(manager, name)
    started = time.monotonic()
    await connector.close()
    assert time.monotonic() - started < 2


async def test_forty_puts_that_hang_stop_neither_other_connectors_nor_openings_and_further_ones_are_refused(
    manager: ConnectorManager,
) -> None:
    connector = await connected(manager, "Blocking")
    with chunk(manager.local_cpu_backend, "k", 4096) as obj:
        puts = [connector.put(f"k{i}", obj) for i in range(40)]
        ended = await asyncio.gather(*puts, return_exceptions=True)
        assert {type(error) for error in ended} == {OperationTimeoutError}
        lane = connector.context.lane
        assert lane.abandoned_calls == 32
        with pytest.raises(AbandonedCallsError, match=r"Blocking\.put is refused: 32 earlier calls"):
            connector._runner.breaker.reset()
            await connector.put("k", obj)
        other = await connected(manager, "Named")
        await other.put("k", obj)
        found = await other.get("k")
        assert found is not None
        with found:
            assert bytes(found.byte_array) == bytes(obj.byte_array)


RAISED = [SystemExit(3), GeneratorExit(), asyncio.CancelledError("theirs"), BaseException("theirs")]


@pytest.mark.parametrize("raised", RAISED, ids=repr)
@pytest.mark.parametrize("name", ["Raising", "PlainRaising", "OddAnswers", "OddDuckAnswers"])
async def test_whatever_a_plug_in_raises_is_a_typed_error_and_the_process_lives(
    manager: ConnectorManager, name: str, raised: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stubborn.Raising, "raised", raised)
    connector = await connected(manager, name)
    kind = type(raised).__name__
    with pytest.raises(ConnectorFailureError, match=kind):
        await connector.exists("k")
    if name == "PlainRaising":
        return
    for call in (lambda: connector.get("k"), lambda: connector.batched_get(["k"]), connector.list):
        with pytest.raises((ConnectorFailureError, ConnectorContractError), match=kind):
            await call()
    if name == "Raising":
        with chunk(manager.local_cpu_backend, "k", 4096) as obj, pytest.raises(ConnectorFailureError, match=kind):
            await connector.put("k", obj)
        with pytest.raises(ConnectorFailureError, match=kind):
            connector.support_ping()


@pytest.mark.parametrize("raised", RAISED, ids=repr)
async def test_whatever_a_close_raises_is_a_typed_error(raised: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stubborn.Raising, "raised", raised)
    manager = ConnectorManager()
    connector = await connected(manager, "RaisingAtItsEnd")
    with pytest.raises(ConnectorFailureError, match=type(raised).__name__):
        await connector.close()
    with pytest.raises(ExceptionGroup):
        await manager.close()


async def test_a_keyboard_interrupt_of_a_plug_in_passes(manager: ConnectorManager) -> None:
    program = """
import asyncio, tests.foreign.strangers.stubborn as s
from lmcache_connect import ConnectorManager
s.Raising.raised = KeyboardInterrupt()
async def main():
    async with ConnectorManager() as manager:
        c = await manager.open_connector("external://h:0/tests.foreign.strangers.stubborn/?connector_name=Raising")
        await c.exists("k")
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, env=os.environ
    )
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode != 0


async def test_a_metaclass_that_raises_is_a_typed_error(manager: ConnectorManager) -> None:
    with pytest.raises(PluginTypeError, match=r"SystemExit\(4\)"):
        await connected(manager, "OddClass")


async def test_a_metaclass_that_hides_the_constructor_keeps_it_from_nothing(manager: ConnectorManager) -> None:
    connector = await connected(manager, "Hidden")
    await holds_a_chunk(manager, connector)


async def holds_a_chunk(manager: ConnectorManager, connector: ManagedConnector) -> None:
    with chunk(manager.local_cpu_backend, "k", 4096) as obj:
        await connector.put("k", obj)
    assert holds(await connector.get("k"), "k")


async def test_a_constructor_that_waits_for_the_loop_is_made_by_open_connector(manager: ConnectorManager) -> None:
    await holds_a_chunk(manager, await connected(manager, "WaitsForTheLoop"))


async def test_a_constructor_that_waits_for_the_loop_is_given_up_by_create_connector_which_says_what_to_do() -> None:
    async with ConnectorManager(config=ConnectorConfig.load(import_timeout=0.3)) as manager:
        with pytest.raises(ConnectorFailureError, match=r"await open_connector\(\) does not"):
            manager.create_connector("external://h:0/tests.foreign.strangers.stubborn/?connector_name=WaitsForTheLoop")


async def test_a_constructor_that_connects_does_not_hold_up_the_loop(manager: ConnectorManager) -> None:
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    await connected(manager, "ConnectsSlowly")
    watching.cancel()
    assert longest < 0.25


async def test_a_plug_in_that_imports_its_importer_is_told_of_the_circle_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "the_importer.py").write_text(
        "from lmcache_connect import create_connector\n"
        "create_connector('external://h:0/the_plug_in/?connector_name=C')\n"
    )
    (tmp_path / "the_plug_in.py").write_text("import the_importer\nclass C: ...\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    started = time.monotonic()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", "import the_importer"],
        capture_output=True, text=True, timeout=20, env=environment,
    )  # fmt: skip
    assert time.monotonic() - started < 8
    assert "it imports the_importer, which is being imported and waits here for the_plug_in" in done.stderr
    assert PluginImportError.__name__ in done.stderr


PROCESS = """
import asyncio, time
import tests.foreign.gate
from lmcache_connect import ConnectorConfig, ConnectorManager, OperationTimeoutError

async def main():
    config = ConnectorConfig.load(operation_timeout=0.2, min_throughput=1 << 40, retries=0, close_grace=0.2)
    async with ConnectorManager(config=config) as manager:
        for name in ("Stubborn", "Blocking"):
            c = await manager.open_connector(f"external://h:0/tests.foreign.strangers.stubborn/?connector_name={name}")
            obj = manager.local_cpu_backend.allocate([(4, 1024)], ["uint8"])
            try:
                await c.put("k", obj)
            except OperationTimeoutError:
                print("late")
            obj.ref_count_down()

asyncio.run(main())
"""


async def test_a_process_whose_plug_ins_hang_ends(manager: ConnectorManager) -> None:
    started = time.monotonic()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", PROCESS], capture_output=True, text=True, timeout=25
    )
    assert done.stdout.split() == ["late", "late"], done.stderr
    assert done.returncode == 0
    assert time.monotonic() - started < 15
