"""`OperationRunner`: what happens around one operation of a connector.

In this order:

1. The circuit breaker admits the operation, or refuses it while the store is down.
2. The deadline begins. Everything from here to the last attempt ends by it.
3. The operation waits until its bytes fit into the byte budget.
4. Attempts: the connector's method, and again after a retryable failure.
5. Counters: the result's hits and bytes, or the failure, which becomes a miss or is raised.
6. The verdict: the breaker learns whether the store answered.

An operation of a bypassed connector is only counted, and answered with a miss.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any, Final, TypeVar
from weakref import WeakSet

import anyio
import anyio.lowlevel

from ..config import ConnectorConfig
from ..contract import ORDINARY, Admission, CircuitBreaker, operation_under_way
from ..errors import (
    ArenaExhaustedError,
    CircuitOpenError,
    ConnectorClosedError,
    ConnectorFailureError,
    CorruptRecordError,
    Incident,
    LMCacheConnectError,
    OperationTimeoutError,
    StoreError,
    StoreStalledError,
    StoreUnavailableError,
)
from ..lease import Lease, under
from ..loop import LoopOwner
from ..observability import Conditions, OperationStatistics, Span, StoreMetrics, current_tracer, event, mark_failed
from ..outside import described, hide_causes
from .byte_budget import ByteBudget
from .first_attempt import FirstAttempt
from .in_flight import InFlight
from .load import ONE_KEY, Load
from .operations import Operation
from .running import Running

T = TypeVar("T")

_SPANS: Final = {"record_exception": False, "set_status_on_exception": False}
"""An exception's message may name a key: spans are told its class."""


class OperationRunner:
    """Runs a connector's operations: breaker, deadline, byte budget, attempts, counters. Belongs to one event loop.

    Every operation ends by its deadline.
    """

    def __init__(
        self,
        store: str,
        class_name: str,
        settings: ConnectorConfig,
        owner: LoopOwner,
        name: str,
        *,
        repeats: bool = True,
        judges: bool = True,
        lease: Lease | None = None,
    ) -> None:
        """`store` is the store's address, and `class_name` that of the author's class: both are for messages.

        `name` is the connector's name, for spans. `repeats` False: the connector repeats what failed itself, so each
        operation has one attempt here. `judges` False: the connector has circuit breakers of its own, and the one here
        stays closed. `lease` is what every operation works under, if anything.
        """
        self._store = store
        self._class_name = class_name
        self._settings = settings
        self._retries = settings.retries if repeats else 0
        self._judges = judges
        self._owner = owner
        self._name = name
        self._lease = lease
        self._what = f"connector {store}"
        self.budget: Final = ByteBudget(settings.max_bytes_in_flight)
        self.in_flight: Final = InFlight(owner.loop, store)
        """The operations under way."""
        self.breaker: Final = CircuitBreaker(settings.breaker_failures, settings.breaker_reset, time.monotonic)
        self.metrics: Final = StoreMetrics(store)
        self.conditions: Final = Conditions(store)
        """What fails again and again. It is told at a bounded rate."""
        self.is_closed = False
        """Whether further operations are refused."""
        self._counted: WeakSet[Incident] = WeakSet()  # of those that have failed a call, for the breaker
        self.has_succeeded = False
        """Whether any operation has succeeded so far."""
        self.is_bypassed = False
        """Whether gets, puts and look-ups are answered without asking the store: as misses and dropped puts."""

    def refuse(self) -> None:
        """From now on every new operation raises `ConnectorClosedError`."""
        self.is_closed = True
        if not self._owner.is_forked():
            self.conditions.end()

    def readmit(self) -> None:
        """Takes `refuse()` back, with the breaker closed: the connector was recreated."""
        self.breaker.reset()
        self.conditions.end()
        self.is_closed = False

    def _check_open(self) -> None:
        if self.is_closed or self._owner.is_closed:
            raise ConnectorClosedError(self._what)

    @property
    def is_plain(self) -> bool:
        """Whether all is so ordinary that a call may run in its caller's own thread. From any thread."""
        # Without failures the breaker is closed. Each of these is one read of what the loop writes.
        if self.is_closed or self.is_bypassed or self.breaker.failures or self._owner.is_closed:
            return False
        return current_tracer() is None and not self._owner.is_forked()

    def succeeded_elsewhere(self, operation: Operation[T], moved: int) -> None:
        """Told that a call in its caller's own thread has succeeded, where the loop has to know."""
        if not self.conditions.is_clear:
            self.conditions.succeeded(operation.name)
        if self.breaker.failures:
            self._tell_breaker(True, ORDINARY, moved, operation.is_transfer)

    @property
    def is_serving(self) -> bool:
        """Whether operations are admitted: the connector is neither closed nor bypassed, nor of another process."""
        return not (self.is_closed or self.is_bypassed or self._owner.is_forked())

    def recalled(self, operation: Operation[T], items: int, result: T, calls: int = 1) -> None:
        """Counts a result, for `items` keys, that the connector's hot cache gave without an operation."""
        stats = self.metrics.operation(operation.name)
        stats.calls += calls
        stats.items += items
        if operation.count is not None:
            operation.count(stats, result)

    def run(
        self,
        operation: Operation[T],
        method: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...] = (),
        load: Load = ONE_KEY,
        probe: Callable[..., Awaitable[object]] | None = None,
        first: FirstAttempt | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Returns a coroutine that awaits `method(*args)` as one operation, and again after a retryable failure.

        To be called and awaited on the owning loop. It returns what `operation.take` makes of the method's result, or
        `operation.miss` where a failure is to be a miss. `probe` is a look-up with the first of `args`. It goes first
        where the breaker lets a transfer through as its probe. `first` is an attempt that was made before, elsewhere.

        Raises, at once:
            ConnectorClosedError: operations are refused.
        Raises, when it is awaited:
            ConnectorClosedError, CircuitOpenError, OperationTimeoutError, and what `method` raises of this package.
        """
        if first is not None:
            method = first.before(method, self.in_flight, self._check_open)
        elif self.is_closed or self._owner.is_closed:  # no fork: no loop of its parent's runs in it
            raise ConnectorClosedError(self._what)
        tracer = current_tracer()
        if tracer is None:
            running = self._run(operation, method, args, load, probe, first)
        else:
            running = self._traced(tracer, operation, method, args, load, probe, first)
        return running if self._lease is None else _leased(self._lease, running)

    async def _traced(
        self,
        tracer: Any,
        operation: Operation[T],
        method: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        load: Load,
        probe: Callable[..., Awaitable[object]] | None,
        first: FirstAttempt | None,
    ) -> T:
        facts = {"lmcache_connect.connector": self._name, "lmcache_connect.keys": load.items}
        with tracer.start_as_current_span(f"lmcache_connect.{operation.name}", attributes=facts, **_SPANS) as span:
            try:
                return await self._run(operation, method, args, load, probe, first, span)
            except BaseException as error:
                mark_failed(span, type(error).__name__)
                raise

    async def _run(
        self,
        operation: Operation[T],
        method: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        load: Load,
        probe: Callable[..., Awaitable[object]] | None,
        first: FirstAttempt | None = None,
        span: Span | None = None,
    ) -> T:
        # The path of every call, and most of what a small one costs: nothing here that can be done once, or later.
        stats = self.metrics.operation(operation.name) if operation.is_counted else OperationStatistics()
        stats.calls += 1
        stats.items += load.items
        if self.is_bypassed and operation.is_bypassable and operation.miss is not None and first is None:
            stats.misses["bypassed"] += load.items
            return operation.miss(load.items)
        seconds = self._settings.operation_timeout
        if load is not ONE_KEY:
            seconds = load.seconds(self._settings)
        breaker = self.breaker
        admission = breaker.admit(is_transfer=operation.is_transfer) if first is None else ORDINARY
        if admission is ORDINARY:
            probe = None
        elif admission is None:
            if not operation.is_probe:
                return self._refused(operation, load, stats, span)
            probe = None
        elif not operation.is_transfer:
            seconds = min(seconds, self._settings.stall_timeout)
        queued = perf_counter() if first is None else first.began
        running = self.in_flight.begin(seconds if first is None else seconds - (perf_counter() - first.began))
        token = operation_under_way.set(running)
        stats.in_flight += 1
        verdict: bool | None = None  # for the breaker: whether the store answered; None: that is not known
        is_gone = False  # it is not there for anybody: this says nothing of transfers beside small messages
        moved = 0
        started = 0.0
        try:
            with running:
                retries = self._retries if operation.is_repeatable else 0
                pause = self._settings.retry_backoff
                while True:
                    try:
                        if probe is not None and breaker.is_probe(admission):
                            await self._probe(probe, args[0])
                            breaker.on_trial(admission)
                        if not load.budget_bytes or running.take_free(self.budget, load.budget_bytes):
                            started = started or queued
                        else:
                            await running.take(self.budget, load.budget_bytes)
                            started = started or perf_counter()
                        result = await method(*args)
                        if operation.take is not None:
                            result = operation.take(result)
                    except LMCacheConnectError as error:
                        if not retries or not isinstance(error, StoreError) or not error.retryable:
                            raise
                    except OSError as error:  # a driver's own, from a connector that does not translate
                        if not retries:
                            raise StoreUnavailableError(
                                self._store, f"{operation.name} failed: {described(error)}"
                            ) from error
                    except Exception as error:
                        raise ConnectorFailureError(
                            self._store,
                            f"{self._class_name}.{operation.name} raised {described(error)}",
                        ) from error
                    else:
                        verdict = self.has_succeeded = True
                        if not self.conditions.is_clear:
                            self.conditions.succeeded(operation.name)
                        before = stats.bytes
                        stats.bytes += load.sent_bytes
                        absent = 0 if operation.count is None else operation.count(stats, result)
                        others = len(running.missed)
                        if absent > others:  # those are None as well, and are counted by their reasons
                            stats.misses[operation.absence] += absent - others
                        moved = stats.bytes - before
                        if span is not None:
                            span.set_attribute("lmcache_connect.bytes", moved)
                            span.set_attribute("lmcache_connect.misses", max(absent, others))
                        return result  # type: ignore[no-any-return]  # what `take` returns, or the method
                    # A stalled attempt must not keep others from the budget while this operation tries again.
                    running.release_share()
                    if running.is_lost():  # a caller that has cancelled wants no further attempt
                        raise asyncio.CancelledError
                    retries -= 1
                    stats.retries += 1
                    running.missed = ()  # what is found again is counted once
                    await anyio.sleep(pause * random.uniform(0.5, 1.5))
                    pause *= 2
            # Reached where the operation was ended: its deadline passed, or the connector was closed under it.
            if running.is_late and started:
                verdict = False
            raise self._interruption(operation.name, running, seconds, started)
        except LMCacheConnectError as error:
            if running.is_lost():
                raise asyncio.CancelledError from None
            if not running.has_ended:
                verdict = self._verdict_of(error, admission)
                is_gone = verdict is False and not isinstance(error, StoreStalledError)
            miss = self._failed(operation, error, load, stats, span)
            if miss is None:
                raise
            return miss(load.items)
        except asyncio.CancelledError:
            if running.is_cancelled:
                # A scope of the caller's has cancelled as well, and takes a cancellation of its own only.
                await anyio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            ended = perf_counter()
            stats.in_flight -= 1
            if started:
                stats.queue.observe(started - queued)
                stats.wire.observe(ended - started)
            else:
                stats.queue.observe(ended - queued)
            if load.budget_bytes:
                running.release_share()
            if self._judges and (verdict is False or breaker.failures):  # otherwise it is closed, and stays so
                # A transfer that never began has failed in the look-up before it.
                is_transfer = operation.is_transfer and started > 0 and not is_gone
                self._tell_breaker(verdict, admission, moved, is_transfer)
            self.in_flight.end(running)
            running.let_go_of_task()
            operation_under_way.reset(token)
            for reason in running.missed:
                stats.misses[reason] += 1

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
        hide_causes(error)
        reason = type(error).__name__
        stats.errors[reason] += 1
        if not isinstance(error, (StoreError, ArenaExhaustedError)):
            return None
        if isinstance(error, CircuitOpenError):  # its cause was told
            self.conditions.refused(operation.name)
        else:
            self.conditions.failed(operation.name, reason, str(error))
        is_permanent = isinstance(error, StoreError) and error.permanent
        if self._settings.errors == "raise" or operation.miss is None or is_permanent:
            return None
        stats.misses[reason] += load.items
        if span is not None:
            mark_failed(span, reason)
        return operation.miss

    def _interruption(self, operation: str, running: Running, seconds: float, started: float) -> LMCacheConnectError:
        if running.is_late:
            what = () if started else ("waiting for the byte budget",)
            return OperationTimeoutError(self._store, operation, seconds + running.renewed, *what)
        if self.is_closed:
            return ConnectorClosedError(self._what)
        return StoreUnavailableError(self._store, f"the connector was recreated during {operation}")

    async def _probe(self, probe: Callable[..., Awaitable[object]], key: object) -> None:
        """Makes the look-up that goes before a transfer. It is small, and ends within `stall_timeout`.

        Raises:
            StoreUnavailableError: no answer in time. What `probe` raises.
        """
        with anyio.move_on_after(self._settings.stall_timeout) as scope:
            await probe(key)
        if scope.cancelled_caught:
            seconds = f"{self._settings.stall_timeout:g} s"
            raise StoreUnavailableError(
                self._store, f"no answer to the breaker's probe within {seconds} (stall_timeout)"
            )

    def _verdict_of(self, error: LMCacheConnectError, admission: Admission | None) -> bool | None:
        """Whether the store answered, if only to refuse, where a call ended with `error`. None: that is not known."""
        if not isinstance(error, StoreError) or isinstance(error, OperationTimeoutError):
            return None
        is_lost = isinstance(error, ConnectionError) and (error.retryable or isinstance(error, StoreUnavailableError))
        if not is_lost:
            return True
        if error.incident is not None:
            if error.incident in self._counted and not self.breaker.is_probe(admission):
                return None  # it has failed another call, and counts once
            self._counted.add(error.incident)
        return False

    def _tell_breaker(self, verdict: bool | None, admission: Admission | None, moved: int, is_transfer: bool) -> None:
        before = self.breaker.state
        match verdict:
            case True if moved:
                self.breaker.succeeded(admission)
            case True:
                self.breaker.answered(admission)
            case False:
                self.breaker.failed(admission, is_transfer=is_transfer)
            case None:
                self.breaker.abandoned(admission)
        if self.breaker.state is not before:
            event(logging.WARNING, "breaker", store=self._store, state=self.breaker.state.value)


async def _leased(lease: Lease, running: Coroutine[Any, Any, T]) -> T:
    with under(lease):
        return await running


def note_corrupt(error: CorruptRecordError) -> None:
    """Counts a record that does not verify for the operation that found it."""
    if (running := operation_under_way.get()) is not None:
        running.note_missed(f"corrupt:{error.reason}", 1)
