"""`OperationRunner`: what happens around one operation of a connector."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Final, TypeVar

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
from ..loop import LoopOwner, NativeCancellations
from ..observability import OperationStatistics, Span, StoreMetrics, current_tracer, event, mark_failed
from .breaker import CircuitBreaker
from .byte_budget import ByteBudget
from .drain import Drain

T = TypeVar("T")

_NEVER_DROPPED: Final = frozenset({"remove", "batched_remove"})

CANCEL_GRACE: Final = 1.0
"""Seconds that operations have to end once they were cancelled."""

_SPANS: Final = {"record_exception": False, "set_status_on_exception": False}
"""An exception's message may name a key: spans are told its class."""

_corrupt_in_call: ContextVar[list[str] | None] = ContextVar("corrupt_in_call", default=None)


class OperationRunner:
    """Runs a connector's operations: breaker, deadline, byte budget, attempts, counters. Belongs to one event loop.

    Every operation ends by its deadline, and `finish()` by its grace period.
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
        self._in_flight: set[anyio.CancelScope] = set()
        self._drains: list[Drain] = []
        self.breaker: Final = CircuitBreaker(settings.breaker_failures, settings.breaker_reset, time.monotonic)
        self.metrics: Final = StoreMetrics(store)
        self.is_closed = False
        """Whether further operations are refused."""
        self._probes_fail = False
        self.was_answered = False
        """Whether any operation has succeeded so far."""
        self.is_bypassed = False
        """Whether gets, puts and look-ups are answered without asking the store: as misses and dropped puts."""

    @property
    def in_flight(self) -> int:
        """Operations under way."""
        return len(self._in_flight)

    def refuse(self) -> None:
        """From now on every new operation raises `ConnectorClosedError`."""
        self.is_closed = True

    def readmit(self) -> None:
        """Takes `refuse()` back, with the breaker closed: the connector was made anew."""
        self.breaker.reset()
        self.is_closed = False

    def drain(self) -> Drain:
        """The operations that are under way now, for `finish`."""
        drain = Drain(set(self._in_flight))
        self._drains.append(drain)
        return drain

    async def finish(self, drain: Drain, grace: float) -> None:
        """Lets these operations finish for `grace` seconds, then cancels them."""
        try:
            await drain.wait(grace)
            for scope in list(drain.left):
                scope.cancel()
            await drain.wait(CANCEL_GRACE)
        finally:
            self._drains.remove(drain)
        if drain.left:
            event(
                logging.WARNING,
                "close_abandoned_operations",
                store=self._store,
                operations=len(drain.left),
            )

    async def run(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        *,
        miss: Callable[[], T] | None = None,
        count: Callable[[OperationStatistics, T], int] | None = None,
        items: int = 1,
        deadline_bytes: int = 0,
        budget_bytes: int = 0,
        moved: int = 0,
        retries: int | None = None,
        probe: bool = False,
    ) -> T:
        """Awaits `call()` as one operation of `items` keys, on the owning loop.

        `miss` gives the result where an error is to be a miss; None: never. `count` counts the hits of a result, and
        returns how many of its items are none. The deadline allows for `deadline_bytes`, and `budget_bytes` of the
        byte budget are held meanwhile; `moved` is counted as bytes when it succeeds. `retries`: None is the setting. A
        `probe` is made whatever the breaker says.

        Raises:
            ConnectorClosedError, CircuitOpenError, OperationTimeoutError, and what `call` raises of this package.
        """
        self._owner.check(self._name)
        if self.is_closed:
            raise ConnectorClosedError(self._name)
        counted = partial(
            self._counted,
            operation,
            call,
            miss=miss,
            count=count,
            items=items,
            deadline_bytes=deadline_bytes,
            budget_bytes=budget_bytes,
            moved=moved,
            attempts=self._settings.retries if retries is None else retries,
            probe=probe,
        )
        if (tracer := current_tracer()) is None:
            return await counted(None)
        facts = {"lmcache_connect.connector": self._label, "lmcache_connect.keys": items}
        with tracer.start_as_current_span(f"lmcache_connect.{operation}", attributes=facts, **_SPANS) as span:
            try:
                return await counted(span)
            except BaseException as error:
                mark_failed(span, type(error).__name__)
                raise

    async def _counted(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        span: Span | None,
        *,
        miss: Callable[[], T] | None,
        count: Callable[[OperationStatistics, T], int] | None,
        items: int,
        deadline_bytes: int,
        budget_bytes: int,
        moved: int,
        attempts: int,
        probe: bool,
    ) -> T:
        stats = self.metrics.operation(operation)
        stats.calls += 1
        stats.items += items
        # A removal is never dropped: what was to go away would still be there afterwards.
        if self.is_bypassed and miss is not None and operation not in _NEVER_DROPPED:
            stats.misses["bypassed"] += items
            return miss()
        corrupt: list[str] = []
        token = _corrupt_in_call.set(corrupt)
        try:
            result = await self._guarded(operation, call, stats, deadline_bytes, budget_bytes, attempts, probe)
        except (StoreError, ArenaExhaustedError) as error:
            reason = type(error).__name__
            stats.errors[reason] += 1
            if not isinstance(error, CircuitOpenError):  # its cause was told; a dead store must not flood the log
                # The same goes for those who ask it again and again how it is.
                level = logging.DEBUG if probe and self._probes_fail else logging.WARNING
                event(level, "operation_failed", store=self._store, operation=operation, error=str(error))
            self._probes_fail = self._probes_fail or probe
            permanent = isinstance(error, StoreError) and error.permanent
            if self._settings.errors == "raise" or miss is None or permanent:
                raise
            stats.misses[reason] += items
            if span is not None:
                mark_failed(span, reason)
            return miss()
        except LMCacheConnectError as error:
            stats.errors[type(error).__name__] += 1
            raise
        finally:
            _corrupt_in_call.reset(token)
            for reason in corrupt:
                stats.misses[f"corrupt:{reason}"] += 1
        stats.bytes += moved
        absent = 0
        if count is not None:
            before = stats.bytes
            absent = max(0, count(stats, result) - len(corrupt))  # those are None as well, and were counted above
            moved = stats.bytes - before
            if absent:
                stats.misses["absent"] += absent
        if span is not None:
            span.set_attribute("lmcache_connect.bytes", moved)
            span.set_attribute("lmcache_connect.misses", absent + len(corrupt))
        return result

    async def _guarded(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        stats: OperationStatistics,
        deadline_bytes: int,
        budget_bytes: int,
        retries: int,
        probe: bool,
    ) -> T:
        admission = self.breaker.admit()
        if admission is None and not probe:
            raise CircuitOpenError(self._store, self.breaker.failures, self.breaker.retry_in)
        seconds = self._settings.operation_timeout + deadline_bytes / self._settings.min_throughput
        scope = anyio.CancelScope(deadline=anyio.current_time() + seconds)
        self._in_flight.add(scope)
        stats.in_flight += 1
        verdict = self.breaker.abandoned
        queued = time.perf_counter()
        started: float | None = None
        tells_of_store = True
        cancellations = NativeCancellations()
        try:
            with scope:
                async with self._budget.take(budget_bytes):
                    started = time.perf_counter()
                    result = await self._attempt(operation, call, stats, retries, cancellations)
                    verdict = self.breaker.succeeded
                    self.was_answered = True
                    self._probes_fail = False
                    return result
            cancellations.raise_lost()
            # Our own scope ended the call: the deadline passed, or finish() cancelled.
            if anyio.current_time() < scope.deadline:
                if self.is_closed:
                    raise ConnectorClosedError(self._name)
                tells_of_store = False
                raise StoreUnavailableError(self._store, f"the connector was made anew during {operation}")
            if started is None:
                raise OperationTimeoutError(self._store, operation, seconds, "waiting for the byte budget")
            verdict = self.breaker.failed
            raise OperationTimeoutError(self._store, operation, seconds)
        except LMCacheConnectError as error:
            cancellations.raise_lost()  # the connector made an error of it
            if tells_of_store and isinstance(error, StoreError) and not isinstance(error, OperationTimeoutError):
                is_lost = isinstance(error, ConnectionError) and (
                    error.retryable or isinstance(error, StoreUnavailableError)
                )
                # Otherwise the store answered, if only to refuse.
                verdict = self.breaker.failed if is_lost else self.breaker.succeeded
            raise
        finally:
            ended = time.perf_counter()
            stats.queue.observe((ended if started is None else started) - queued)
            if started is not None:
                stats.wire.observe(ended - started)
            stats.in_flight -= 1
            before = self.breaker.state
            verdict(admission)
            if self.breaker.state is not before:
                event(logging.WARNING, "breaker", store=self._store, state=self.breaker.state.value)
            self._in_flight.discard(scope)
            for drain in self._drains:
                drain.ended(scope)

    async def _attempt(
        self,
        operation: str,
        call: Callable[[], Awaitable[T]],
        stats: OperationStatistics,
        retries: int,
        cancellations: NativeCancellations,
    ) -> T:
        pause = self._settings.retry_backoff
        while True:
            if corrupt := _corrupt_in_call.get():
                corrupt.clear()  # of an attempt before: what is found again is counted once
            try:
                return await call()
            except StoreError as error:
                if not error.retryable or retries == 0:
                    raise
            except LMCacheConnectError:
                raise
            except OSError as error:  # a driver's own, from a connector that does not translate
                if retries == 0:
                    raise StoreUnavailableError(
                        self._store, f"{operation} failed: {type(error).__name__}: {error}"
                    ) from error
            except Exception as error:
                raise ConnectorFailureError(
                    self._store,
                    f"{self._connector}.{operation} raised {type(error).__name__}: {error}",
                ) from error
            cancellations.raise_lost()  # who is cancelled does not try again
            retries -= 1
            stats.retries += 1
            await anyio.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2


def note_corrupt(store: str, key: str, error: CorruptRecordError) -> None:
    """Counts a record that does not verify for the operation that found it."""
    if (corrupt := _corrupt_in_call.get()) is not None:
        corrupt.append(error.reason)
    event(logging.WARNING, "corrupt_record", store=store, key=key, error=str(error), removed=error.removable)
