"""`Node`: one of several servers, with its connector, its circuit breaker and its deadline."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from weakref import WeakSet

from lmcache_connect import ConnectorConfig, StoreError
from lmcache_connect.contract import Admission, BreakerState, CircuitBreaker, ServerState, operation_under_way
from lmcache_connect.errors import (
    CircuitOpenError,
    Incident,
    OperationTimeoutError,
    StoreStalledError,
    StoreUnavailableError,
)
from lmcache_connect.observability import Conditions, event

from ..connector import RedisConnector
from .grace_period import GracePeriod
from .replica_rest import ReplicaRest

T = TypeVar("T")

REPLICA_SHARE: Final = 0.5
"""The part of a call's time that a replica has. The rest is the primary's."""

_MARGIN: Final = 0.25
"""Seconds before the deadline of a call at which its share of a server that does not answer ends, at most. What the
other servers have brought is then still returned in time."""

_MARGIN_SHARE: Final = 0.1
"""The part of the time left that `_MARGIN` may take."""


class Node:
    """One server. What fails here says nothing about the others. Belongs to one event loop."""

    def __init__(self, connector: RedisConnector, store: str, settings: ConnectorConfig) -> None:
        """`store` is the server's address, for logs and errors."""
        self.connector: Final = connector
        self.store: Final = store
        self._settings: Final = settings
        self.breaker: Final = CircuitBreaker(settings.breaker_failures, settings.breaker_reset, time.monotonic)
        self.conditions: Final = Conditions(store)
        """What fails here again and again, and is a miss. It is told at a bounded rate."""
        self._counted: WeakSet[Incident] = WeakSet()
        self._last_failure = ("", "")
        self._is_suspect = False
        self.rest: Final = ReplicaRest()
        """For how long it is not asked, where it is a replica that has failed."""

    @property
    def state(self) -> ServerState:
        """What is known of it now. From any thread."""
        error, detail = self._last_failure
        return ServerState(self.store, self.breaker.state, self.breaker.failures, error, detail)

    @property
    def is_plain(self) -> bool:
        """Whether a thread may ask it without the event loop: nothing has failed. From any thread."""
        return not (self.breaker.failures or self._is_suspect)

    def check_breaker(self) -> None:
        """Raises `CircuitOpenError` where the server has failed before, and is not asked now."""
        if self.breaker.state is BreakerState.OPEN:
            raise CircuitOpenError(self.store, self.breaker.failures, self.breaker.retry_in)

    def suspect(self) -> None:
        """Told that a call in a thread has failed: the next ones go over the event loop. From any thread."""
        self._is_suspect = True

    def leave(self, error: StoreError) -> None:
        """Told that it is a replica which has failed, so that its primary is asked."""
        if self.rest.failed():
            event(logging.WARNING, "replica_left", store=self.store, error=error.message)

    def note_missed(self, operation: str, error: StoreError) -> None:
        """Tells of a failure that the call's keys on this server are misses for."""
        if isinstance(error, CircuitOpenError):  # its cause was told
            self.conditions.refused(operation)
        else:
            self.conditions.failed(operation, type(error).__name__, str(error))

    async def call(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        is_transfer: bool = False,
        is_repeatable: bool = True,
        is_probe: bool = False,
        is_alone: bool = False,
        is_replica: bool = False,
        waits: bool = False,
        grace: GracePeriod | None = None,
    ) -> T:
        """Returns what `attempt()` returns, after at most `retries` repetitions. The result of a transfer is a bool.

        It says whether bytes were moved. `is_probe`: the server is asked also while its breaker is open. `is_alone`: no
        other server is asked, now or later. Otherwise this ends a little before the deadline of the operation under
        way. `is_replica`: it ends earlier, so that the primary can be asked.
        `waits`: the attempt may wait for something else than the server, so that its being late says nothing of it.
        `grace`: ends this when others have answered, and this server has not for too long.

        Raises:
            CircuitOpenError: the server has failed before, and is not asked now.
            OperationTimeoutError: it did not answer in time.
            What `attempt()` raises.
        """
        admission = self.breaker.admit(is_transfer=is_transfer)
        if admission is None and not is_probe:
            raise CircuitOpenError(self.store, self.breaker.failures, self.breaker.retry_in)
        verdict: bool | None = None
        has_moved = False
        try:
            seconds = math.inf if is_alone else seconds_for_a_share() * (REPLICA_SHARE if is_replica else 1)
            result = await self._limited(operation, attempt, admission, is_transfer, is_repeatable, seconds, grace)
            verdict, has_moved = True, is_transfer and bool(result)
            if not self.conditions.is_clear:
                self.conditions.succeeded(operation)
            self._is_suspect = False
            return result
        except StoreError as error:
            self._last_failure = (type(error).__name__, str(error))
            if not waits and isinstance(error, OperationTimeoutError):
                verdict = False
            raise  # each attempt that failed was told already
        except asyncio.CancelledError:
            if not waits and is_late():
                verdict = False
            raise
        finally:
            self._tell(verdict, admission, is_transfer=is_transfer, has_moved=has_moved)

    async def _limited(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[T]],
        admission: Admission | None,
        is_transfer: bool,
        is_repeatable: bool,
        seconds: float,
        grace: GracePeriod | None,
    ) -> T:
        if not is_transfer and self.breaker.is_probe(admission):
            seconds = min(seconds, self._settings.stall_timeout)
        if math.isinf(seconds) and grace is None:
            return await self._attempts(attempt, admission, is_transfer, is_repeatable)
        timer = asyncio.timeout(None if math.isinf(seconds) else seconds)
        try:
            async with timer:
                if grace is None:
                    return await self._attempts(attempt, admission, is_transfer, is_repeatable)
                grace.add(timer)
                try:
                    return await self._attempts(attempt, admission, is_transfer, is_repeatable)
                finally:
                    grace.remove(timer)
        except TimeoutError as error:
            if isinstance(error, StoreError) or not timer.expired():
                raise
        raise OperationTimeoutError(self.store, operation, min(seconds, math.inf if grace is None else grace.seconds))

    async def _attempts(
        self, attempt: Callable[[], Awaitable[T]], admission: Admission | None, is_transfer: bool, is_repeatable: bool
    ) -> T:
        retries = self._settings.retries if is_repeatable else 0
        pause = self._settings.retry_backoff
        while True:
            try:
                if is_transfer and self.breaker.is_probe(admission):
                    await self._probe()
                    self.breaker.on_trial(admission)
                return await attempt()
            except StoreError as error:
                self._judge(error, admission, is_transfer)
                if not retries or not error.retryable or self.breaker.state is not BreakerState.CLOSED:
                    raise
            retries -= 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause *= 2

    async def _probe(self) -> None:
        """Makes the look-up that goes before a transfer. It is small, and ends within `stall_timeout`."""
        seconds = self._settings.stall_timeout
        timer = asyncio.timeout(seconds)
        try:
            async with timer:
                await self.connector.ping()
        except TimeoutError:
            if not timer.expired():
                raise
            raise StoreUnavailableError(
                self.store, f"no answer to the breaker's probe within {seconds:g} s (stall_timeout)"
            ) from None

    def _judge(self, error: StoreError, admission: Admission | None, is_transfer: bool) -> None:
        """Tells the breaker of an attempt that failed: whether the server answered, if only to refuse."""
        is_lost = isinstance(error, ConnectionError) and (error.retryable or isinstance(error, StoreUnavailableError))
        if is_lost and error.incident is not None:
            if error.incident in self._counted and not self.breaker.is_probe(admission):
                return  # it has failed another call, and counts once
            self._counted.add(error.incident)
        # Small messages may pass where transfers stall. A server that is gone is there for both when it is back: a put
        # must not wait for another trial because the first one was a get of a key that it does not hold any more.
        is_stalled = isinstance(error, StoreStalledError)
        self._tell(not is_lost, admission, is_transfer=is_transfer and (is_stalled or not is_lost))

    def _tell(
        self, verdict: bool | None, admission: Admission | None, *, is_transfer: bool, has_moved: bool = False
    ) -> None:
        breaker = self.breaker
        if verdict is not False and not breaker.failures:
            return  # it is closed, and stays so
        before = breaker.state
        match verdict:
            case True if has_moved:
                breaker.succeeded(admission)
            case True:
                breaker.answered(admission)
            case False:
                breaker.failed(admission, is_transfer=is_transfer)
            case None:
                breaker.abandoned(admission)
        if breaker.state is not before:
            event(logging.WARNING, "breaker", store=self.store, state=breaker.state.value)


def _deadline() -> float:
    running = operation_under_way.get()
    return math.inf if running is None else running.deadline


def is_late() -> bool:
    """Returns whether the deadline of the call under way has passed."""
    return _deadline() <= asyncio.get_running_loop().time()


def seconds_for_a_share() -> float:
    """Returns how many seconds a server has for its share of the call under way. Infinity: it has no deadline."""
    left = _deadline() - asyncio.get_running_loop().time()
    return left if math.isinf(left) else max(0.0, left - min(_MARGIN, _MARGIN_SHARE * left))
