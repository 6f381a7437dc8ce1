"""`Threads`: blocking calls from threads without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

from ..clients import BLOCKING
from .work import SMALL, Clock, Work, freeze_heap, names, payload, verify, verify_found

CALLS: Final = 320
"""Calls in a round, of all threads together."""


class Threads(Work):
    """What a call takes: of one thread its time, of several the time of all divided by the number of calls.

    Every thread has a key of its own. A first pass that does not count keeps all results and compares them. In the
    measured pass a thread releases each value before it gets the next one, and the last is compared.
    """

    async def open(self) -> None:
        # A thread without a loop, as the calls are made from.
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        case, threads = self.case, self.case.calls
        stack = ExitStack()
        # Closed on a thread as well: what has a loop of its own waits for it.
        self.stack.push_async_callback(asyncio.to_thread, stack.close)
        self._client = client = BLOCKING[self.client_name]()
        self._nbytes = case.nbytes or SMALL
        client.open(self.url, (CALLS + 64) * (self._nbytes + 4096), threads, stack)
        self._keys = names("thread", threads)
        self._payloads = [payload(key, self._nbytes) for key in self._keys]
        for key, data in zip(self._keys, self._payloads, strict=True):
            staged = client.stage(data)
            client.put(key, staged)
            client.release(staged)
        self._pool = stack.enter_context(ThreadPoolExecutor(threads))
        freeze_heap(self.stack)

    async def round(self, number: int) -> dict[str, float]:
        return await asyncio.to_thread(self._round)

    def _round(self) -> dict[str, float]:
        self._pass(self._keep_all)
        clock = self._pass(self._keep_last)
        return clock.per_call(CALLS // self.case.calls * self.case.calls)

    def _pass(self, make: Callable[[int], list[Any]]) -> Clock:
        threads, clock = self.case.calls, Clock()
        ready = threading.Barrier(threads + 1)

        def run(thread: int) -> list[Any]:
            ready.wait()
            return make(thread)

        futures = [self._pool.submit(run, thread) for thread in range(threads)]
        ready.wait()
        with clock.running():
            results = [future.result() for future in futures]
        for thread, values in enumerate(results):
            if self.case.nbytes:
                verify(self._client, values, [self._payloads[thread]] * len(values))
            else:
                verify_found(self._client, values, [True] * len(values))
        return clock

    def _keep_all(self, thread: int) -> list[Any]:
        client, key = self._client, self._keys[thread]
        call = client.get if self.case.nbytes else client.exists
        return [call(key) for _ in range(CALLS // self.case.calls)]

    def _keep_last(self, thread: int) -> list[Any]:
        client, key = self._client, self._keys[thread]
        if not self.case.nbytes:
            return self._keep_all(thread)
        value = client.get(key)
        for _ in range(CALLS // self.case.calls - 1):
            client.release(value)
            value = client.get(key)
        return [value]
