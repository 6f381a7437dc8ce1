"""Faults in the caller's own process: forks, event loops, cancellations, memory, and plug-ins."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.testing import Direction, FaultKind, payload
from lmcache_connect.testing import Fault as TCPFault

from .. import careless
from ..callers.connector_caller import ConnectorCaller, LoopInThread, taken
from ..cell import Mode, Operation, Seen
from ..limits import ARENA, DEADLINE, SIZE, STALL
from .fault import Fault, Trial, in_thread, judged, name_of, timed


class ProcessFault(Fault):
    """Happens to applications, with an event loop and an arena of their own."""

    family = "process"
    only_applications = True


class Forked(ProcessFault):
    name = "fork"
    title = "call in a fork"
    text = "The process forks, and the call is made in the fork. The parent goes on."
    only_applications = False
    each = True

    async def measure(self, trial: Trial, mode: Mode, operation: Operation) -> Seen:
        begun = time.monotonic()
        told = trial.callers[mode].in_fork(operation, trial.keys[mode, operation])
        return Seen.of(told, time.monotonic() - begun)


class SecondLoop(ProcessFault):
    name = "second-loop"
    title = "call from another event loop"
    text = "The call is made on another event loop, in another thread."

    async def measure(self, trial: Trial, mode: Mode, operation: Operation) -> Seen:
        return await asyncio.to_thread(lambda: asyncio.run(timed(lambda: trial.call(mode, operation))))


class LoopStopped(ProcessFault):
    name = "loop-stopped"
    title = "event loop stopped"
    text = "The event loop that owns the connector has stopped. The call is made from a thread, by `connector.sync`."
    each = True

    async def measure(self, trial: Trial, mode: Mode, operation: Operation) -> Seen:
        # In a thread of its own: what each thread keeps for itself ends with it.
        with ThreadPoolExecutor(1) as thread:
            return await asyncio.wrap_future(thread.submit(self._measure, trial, mode, operation))

    def _measure(self, trial: Trial, mode: Mode, operation: Operation) -> Seen:
        key = trial.keys[mode, operation]
        running = LoopInThread()
        config = ConnectorConfig.load(errors=mode, operation_timeout=DEADLINE, stall_timeout=STALL, close_grace=0.5)
        backend = LocalCPUBackend(ARENA)
        manager = ConnectorManager(trial.place.url("direct"), running.loop, backend, config)
        try:
            asyncio.run_coroutine_threadsafe(manager.open(), running.loop).result(5)
            connector = manager.create_connector()
            chunk = backend.allocate((SIZE,), "uint8")
            assert chunk is not None
            with chunk:
                chunk.byte_array[:] = payload(key, SIZE)
                connector.sync.put(key, chunk)
                running.stop()
                begun = time.monotonic()
                try:
                    if operation == "put":
                        connector.sync.put(key, chunk, timeout=DEADLINE)
                        told = "stored"
                    else:
                        told = judged(key, taken(connector.sync.get(key, timeout=DEADLINE)), 0)
                except Exception as error:
                    told = name_of(error)
                seconds = time.monotonic() - begun
                running.run()
                assert judged(key, taken(connector.sync.get(key)), 0) == "value", "it does not go on with its loop"
            asyncio.run_coroutine_threadsafe(manager.close(), running.loop).result(5)
        finally:
            running.close()
            backend.close()
        return Seen.of(told, seconds)


class Cancelled(ProcessFault):
    name = "cancel"
    title = "call cancelled at a random byte"
    text = "The call stands still at some byte of its payload, and is cancelled there."
    needs = "wire"
    way = "wire"
    each = True

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        direction = Direction.TO_SERVER if operation == "put" else Direction.TO_CLIENT
        after = random.Random(operation).randrange(SIZE // 4, SIZE // 2)
        for wire in trial.place.wires:
            await in_thread(wire.arm, TCPFault(FaultKind.STALL, direction, after_bytes=after))

    async def measure(self, trial: Trial, mode: Mode, operation: Operation) -> Seen:
        call = asyncio.ensure_future(trial.call(mode, operation))
        while not any(wire.fired for wire in trial.place.wires) and not call.done():
            await asyncio.sleep(0.002)
        begun = time.monotonic()
        call.cancel()
        [told] = await asyncio.gather(call, return_exceptions=True)
        outcome = told if isinstance(told, str) else type(told).__name__
        return Seen.of(outcome, time.monotonic() - begun)

    async def end(self, trial: Trial) -> None:
        for wire in trial.place.wires:
            await in_thread(wire.disarm)


class ArenaFull(ProcessFault):
    name = "arena-full"
    title = "arena full"
    text = "The application holds so many chunks that the arena has no room for another one."
    each = True

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        for caller in trial.callers.values():
            assert isinstance(caller, ConnectorCaller)
            last = caller.chunk(bytes(SIZE))
            while (chunk := caller.backend.allocate((4096,), "uint8")) is not None:
                trial.shared.append(chunk)
            if operation == "put":
                last.ref_count_down()  # an application puts what it has in the arena already
            else:
                trial.shared.append(last)

    async def end(self, trial: Trial) -> None:
        for chunk in trial.shared:
            held: Any = chunk
            held.ref_count_down()
        trial.shared.clear()


class CarelessPlugin(Fault):
    """The plug-in acts so, until it is over."""

    family = "plug-in"
    needs = "plug-in"
    only_applications = True

    def __init__(self, manner: str, text: str) -> None:
        self.name = f"plugin-{manner.partition(' ')[0]}"
        self.title = f"plug-in {manner}"
        self.text = text
        self._manner = manner
        self.way = "answers" if manner == "blocks" else "direct"  # to the class with plain functions

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        careless.behave(self._manner)

    async def end(self, trial: Trial) -> None:
        careless.behave()


FAULTS: tuple[Fault, ...] = (
    Forked(),
    SecondLoop(),
    LoopStopped(),
    Cancelled(),
    ArenaFull(),
    CarelessPlugin("raises", "Its methods raise errors of their own."),
    CarelessPlugin("exits", "Its methods raise `SystemExit`."),
    CarelessPlugin("hangs", "Its methods do not end, and swallow their cancellation."),
    CarelessPlugin("answers nonsense", "Its `get` returns something that is not a chunk."),
    CarelessPlugin("blocks", "Its methods are plain functions that do not return."),
)
