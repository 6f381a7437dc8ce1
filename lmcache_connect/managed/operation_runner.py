"""`OperationRunner`: what happens around one operation of a connector."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import anyio

from ..config import ConnectorConfig
from ..errors import (
    ArenaExhaustedError,
    CircuitOpenError,
    ConnectorClosedError,
    ConnectorFailureError,
    CorruptRecordError,
    LMCacheConnectError,
    OperationTimeoutError,
    StoreError,
    StoreUnavailableError,
)
from ..loop import LoopOwner
from ..observability import OperationStatistics, Span, StoreMetrics, current_tracer, event, mark_failed
from .breaker import Admission, CircuitBreaker
from .byte_budget import ByteBudget
from .in_flight import InFlight
from .load import ONE_KEY, Load
from .operations import Operation
from .running import Running

T = TypeVar("T")

_SPANS: Final = {"record_exception": False, "set_status_on_exception": False}
"""An exception's message may name a key: spans are told its class."""

_running: ContextVar[Running | None] = ContextVar("running_operation", default=None)
"""The operation that runs in this context, for `note_corrupt`."""


class OperationRunner:
    """Runs a connector's operations: breaker, deadline, byte budget, attempts, counters. Belongs to one event loop.

    Every operation ends by its deadline.
    """

    def __init__(
        self, store: str, connector: str, settings: ConnectorConfig, owner: LoopOwner, label: str = ""
    ) -> None:
        """`store` and `connector` are for messages: the store's label, and the name of the connector's class.

        `label` is what the connector is called in spans.
        """
        self._label = label
        self._store = store
        self._connector = connector
        self._settings = settings
        self._owner = owner
        self._name = f"connector {store}"
        self._budget = ByteBudget(settings.max_bytes_in_flight)
        self.in_flight: Final = InFlight(owner.loop, store)
        """The operations under way."""
        self.breaker: Final = CircuitBreaker(settings.breaker_failures, settings.breaker_reset, time.monotonic)
        self.metrics: Final = StoreMetrics(store)
        self.is_closed = False
        """Whether further operations are refused."""
        self.was_answered = False
        """Whether any operation has succeeded so far."""
        self.is_bypassed = False
        """Whether gets, puts and look-ups are answered without asking the store: as misses and dropped puts."""
        self._probes_fail = False

    def refuse(self) -> None:
        """From now on every new operation raises `ConnectorClosedError`."""
        self.is_closed = True

    def readmit(self) -> None:
        """Takes `refuse()` back, with the breaker closed: the connector was recreated."""
        self.breaker.reset()
        self.is_closed = False

    def run(
        self, operation: Operation[T], call: Callable[[], Awaitable[T]], load: Load = ONE_KEY
    ) -> Coroutine[Any, Any, T]:
        """Awaits `call()` as one operation, on the owning loop. Tries it again after a failure that is worth it.

        Returns its result, or `operation.miss` where a failure is to be a miss.

        Raises:
            ConnectorClosedError, CircuitOpenError, OperationTimeoutError, and what `call` raises of this package.
        """
        self._owner.check(self._name)
        if self.is_closed:
            raise ConnectorClosedError(self._name)
        tracer = current_tracer()
        if tracer is None:
            return self._run(operation, call, load)
        return self._traced(tracer, operation, call, load)

    async def _traced(self, tracer: Any, operation: Operation[T], call: Callable[[], Awaitable[T]], load: Load) -> T:
        facts = {"lmcache_connect.connector": self._label, "lmcache_connect.keys": load.items}
        with tracer.start_as_current_span(f"lmcache_connect.{operation.name}", attributes=facts, **_SPANS) as span:
            try:
                return await self._run(operation, call, load, span)
            except BaseException as error:
                mark_failed(span, type(error).__name__)
                raise

    async def _run(
        self, operation: Operation[T], call: Callable[[], Awaitable[T]], load: Load, span: Span | None = None
    ) -> T:
        # The path of every call, and most of what a small one costs: nothing here that can be done once, or later.
        stats = self.metrics.operation(operation.name)
        stats.calls += 1
        stats.items += load.items
        if self.is_bypassed and operation.is_bypassable and operation.miss is not None:
            stats.misses["bypassed"] += load.items
            return operation.miss(load.items)
        admission = self.breaker.admit()
        if admission is None and not operation.is_probe:
            return self._refused(operation, load, stats, span)
        seconds = self._settings.operation_timeout + load.deadline_bytes / self._settings.min_throughput
        task = asyncio.current_task(self._owner.loop)
        cancellations = task.cancelling() if task is not None else 0
        running = self.in_flight.begin(seconds)
        token = _running.set(running)
        stats.in_flight += 1
        answered: bool | None = None  # whether the store answered; None: nothing is known of it
        queued = time.perf_counter()
        started: float | None = None
        try:
            with running.scope:
                if load.budget_bytes:
                    await self._budget.acquire(load.budget_bytes)
                started = time.perf_counter()
                retries = self._settings.retries if operation.is_repeatable else 0
                pause = self._settings.retry_backoff
                while True:
                    try:
                        result = await call()
                    except LMCacheConnectError as error:
                        if not retries or not isinstance(error, StoreError) or not error.retryable:
                            raise
                    except OSError as error:  # a driver's own, from a connector that does not translate
                        if not retries:
                            raise StoreUnavailableError(
                                self._store, f"{operation.name} failed: {type(error).__name__}: {error}"
                            ) from error
                    except Exception as error:
                        raise ConnectorFailureError(
                            self._store,
                            f"{self._connector}.{operation.name} raised {type(error).__name__}: {error}",
                        ) from error
                    else:
                        answered = self.was_answered = True
                        self._probes_fail = False
                        before = stats.bytes
                        stats.bytes += load.sent_bytes
                        absent = 0 if operation.count is None else operation.count(stats, result)
                        corrupt = len(running.corrupt)
                        if absent > corrupt:  # those are None as well, and are counted by their reasons
                            stats.misses["absent"] += absent - corrupt
                        if span is not None:
                            span.set_attribute("lmcache_connect.bytes", stats.bytes - before)
                            span.set_attribute("lmcache_connect.misses", max(absent, corrupt))
                        return result
                    _raise_lost(task, cancellations)  # a caller that has cancelled wants no further attempt
                    retries -= 1
                    stats.retries += 1
                    running.corrupt = ()  # what is found again is counted once
                    await anyio.sleep(pause * random.uniform(0.5, 1.5))
                    pause *= 2
            # Reached where the scope has ended the call: its deadline passed, or the connector was closed under it.
            if running.is_late and started is not None:
                answered = False
            raise self._interruption(operation.name, running, seconds, started)
        except LMCacheConnectError as error:
            _raise_lost(task, cancellations)
            if not running.scope.cancelled_caught:
                answered = _was_answered(error)
            miss = self._failed(operation, error, load, stats, span)
            if miss is None:
                raise
            return miss(load.items)
        finally:
            ended = time.perf_counter()
            stats.in_flight -= 1
            if started is None:
                stats.queue.observe(ended - queued)
            else:
                stats.queue.observe(started - queued)
                stats.wire.observe(ended - started)
                if load.budget_bytes:
                    self._budget.release(load.budget_bytes)
            if answered is False or self.breaker.failures:  # otherwise it is closed, and stays so
                self._tell_breaker(answered, admission)
            self.in_flight.end(running)
            _running.reset(token)
            for reason in running.corrupt:
                stats.misses[f"corrupt:{reason}"] += 1

    def _refused(self, operation: Operation[T], load: Load, stats: OperationStatistics, span: Span | None) -> T:
        try:
            raise CircuitOpenError(self._store, self.breaker.failures, self.breaker.retry_in)
        except CircuitOpenError as error:
            miss = self._failed(operation, error, load, stats, span)
            if miss is None:
                raise
            return miss(load.items)

    def _failed(
        self,
        operation: Operation[T],
        error: LMCacheConnectError,
        load: Load,
        stats: OperationStatistics,
        span: Span | None,
    ) -> Callable[[int], T] | None:
        """Counts and tells a failure. Returns what makes a miss of it, or None where it is to be raised."""
        # It does not raise the error itself: one whose traceback holds a frame that holds it is freed late.
        reason = type(error).__name__
        stats.errors[reason] += 1
        if not isinstance(error, (StoreError, ArenaExhaustedError)):
            return None
        if not isinstance(error, CircuitOpenError):  # its cause was told; a dead store must not flood the log
            # The same goes for those who ask it again and again how it is.
            level = logging.DEBUG if operation.is_probe and self._probes_fail else logging.WARNING
            event(level, "operation_failed", store=self._store, operation=operation.name, error=str(error))
        self._probes_fail = self._probes_fail or operation.is_probe
        is_permanent = isinstance(error, StoreError) and error.permanent
        if self._settings.errors == "raise" or operation.miss is None or is_permanent:
            return None
        stats.misses[reason] += load.items
        if span is not None:
            mark_failed(span, reason)
        return operation.miss

    def _interruption(
        self, operation: str, running: Running, seconds: float, started: float | None
    ) -> LMCacheConnectError:
        if running.is_late:
            what = () if started is not None else ("waiting for the byte budget",)
            return OperationTimeoutError(self._store, operation, seconds, *what)
        if self.is_closed:
            return ConnectorClosedError(self._name)
        return StoreUnavailableError(self._store, f"the connector was recreated during {operation}")

    def _tell_breaker(self, answered: bool | None, admission: Admission | None) -> None:
        before = self.breaker.state
        match answered:
            case True:
                self.breaker.succeeded(admission)
            case False:
                self.breaker.failed(admission)
            case None:
                self.breaker.abandoned(admission)
        if self.breaker.state is not before:
            event(logging.WARNING, "breaker", store=self._store, state=self.breaker.state.value)


def note_corrupt(store: str, key: str, error: CorruptRecordError) -> None:
    """Counts a record that does not verify for the operation that found it."""
    if (running := _running.get()) is not None:
        running.corrupt += (error.reason,)
    event(logging.WARNING, "corrupt_record", store=store, key=key, error=str(error), removed=error.removable)


def _was_answered(error: LMCacheConnectError) -> bool | None:
    """Whether the store answered, if only to refuse, where a call ended with `error`. None: that is not known."""
    if not isinstance(error, StoreError) or isinstance(error, OperationTimeoutError):
        return None
    is_lost = isinstance(error, ConnectionError) and (error.retryable or isinstance(error, StoreUnavailableError))
    return not is_lost


def _raise_lost(task: asyncio.Task[Any] | None, before: int) -> None:
    """Raises the cancellation that a connector has made an error of, where the task had `before` of them earlier."""
    # An anyio scope of the caller's that is cancelled counts as well, and sees to its own.
    if task is not None and task.cancelling() > before and anyio.current_effective_deadline() > -math.inf:
        raise asyncio.CancelledError
