"""`lmcache-connect ping --count N`: asks a store again and again, as ping(8) asks a host."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...config import ConnectorConfig
from ...errors import LMCacheConnectError
from ...manager import ConnectorManager
from ...memory import LocalCPUBackend
from ...url import RemoteURL

_ARENA_BYTES = 4096
_KEY = "lmcache-connect-ping"
_NEVER = 1_000_000
"""Failures that open the circuit breaker. Each ping asks the store, whatever happened to the one before."""


@dataclass(frozen=True)
class Answer:
    """What became of one ping. `error` is None where the store answered. `number` begins at 1.

    The first answer's time includes connecting.
    """

    number: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class RepeatedPingReport:
    """All pings. `store` is a redacted URL. `operation` is the call that was made: `ping`, or `exists` of one key."""

    store: str
    operation: str
    answers: tuple[Answer, ...] = field(default=())

    @property
    def lost(self) -> int:
        """How many were not answered."""
        return sum(answer.error is not None for answer in self.answers)

    @property
    def times(self) -> list[float]:
        """The seconds of those that were answered, sorted. The first, which connected, is left out if others are."""
        good = [answer.seconds for answer in self.answers if answer.error is None]
        connected = bool(self.answers) and self.answers[0].error is None and len(good) > 1
        return sorted(good[1:] if connected else good)


def percentile(times: Sequence[float], share: float) -> float:
    """The smallest of the sorted times that at least this share of them do not exceed."""
    return times[max(0, math.ceil(share * len(times)) - 1)]


async def run_pings(
    url: str, timeout: float, count: int | None, interval: float, on_answer: Callable[[Answer], None]
) -> RepeatedPingReport:
    """Asks the store `count` times, or until SIGINT with None, `interval` seconds after each other. Changes nothing.

    A ping that takes more than `timeout` seconds, or fails, is lost, and the next one is sent. SIGINT ends the run.

    Raises:
        LMCacheConnectError: the URL is wrong, or nothing can serve it.
    """
    remote_url = RemoteURL.parse(url)
    config = ConnectorConfig.load(errors="raise", operation_timeout=timeout, retries=0, breaker_failures=_NEVER)
    answers: list[Answer] = []
    with LocalCPUBackend(_ARENA_BYTES) as backend, _interrupted() as stop:
        async with ConnectorManager(remote_url, None, backend, config) as manager:
            connector = manager.create_connector()
            operation = "ping" if connector.support_ping() else "exists"
            ask: Callable[[], Awaitable[Any]] = (
                connector.ping if operation == "ping" else lambda: connector.exists(_KEY)
            )
            while (count is None or len(answers) < count) and not stop.is_set():
                started = time.perf_counter()
                asked = asyncio.ensure_future(_ask(ask, len(answers) + 1, timeout))
                if not await _before(stop, asked):
                    break
                answers.append(asked.result())
                on_answer(answers[-1])
                if count is None or len(answers) < count:
                    pause = asyncio.ensure_future(asyncio.sleep(started + interval - time.perf_counter()))
                    await _before(stop, pause)
    return RepeatedPingReport(remote_url.redacted(), operation, tuple(answers))


async def _ask(ask: Callable[[], Awaitable[Any]], number: int, timeout: float) -> Answer:
    started = time.perf_counter()
    error = None
    try:
        async with asyncio.timeout(timeout):
            await ask()
    except TimeoutError as failure:
        error = str(failure) or f"no answer within {timeout:g} s"
    except (LMCacheConnectError, OSError) as failure:
        error = str(failure)
    return Answer(number, time.perf_counter() - started, error)


async def _before(stop: asyncio.Event, task: asyncio.Future[Any]) -> bool:
    """Waits for the task. Returns False where SIGINT came first; the task is cancelled then."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({stopped, task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        is_done = task.done()
        if not is_done:
            task.cancel()
    if not is_done:
        await asyncio.wait({task})
    return is_done


@contextlib.contextmanager
def _interrupted() -> Iterator[asyncio.Event]:
    """An event that SIGINT sets in the `with` block, instead of ending the process."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda _number, _frame: loop.call_soon_threadsafe(stop.set))
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
