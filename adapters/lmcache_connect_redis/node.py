"""`Node`: one of several servers, with its connector, its circuit breaker and its deadline."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar
from weakref import WeakSet

from lmcache_connect import ConnectorConfig, StoreError
from lmcache_connect.contract import Admission, BreakerState, CircuitBreaker, seconds_left
from lmcache_connect.errors import CircuitOpenError, Incident, OperationTimeoutError, StoreUnavailableError
from lmcache_connect.observability import Conditions, event

from .connector import RedisConnector

T = TypeVar("T")

_MARGIN: Final = 0.25
"""Seconds before the deadline of a call at which its share of a server that does not answer ends, at most. What the
other servers have brought is then still returned in time."""

_MARGIN_SHARE: Final = 0.1
"""The part of the time left that `_MARGIN` may take."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What is known of one server. `failures`: attempts in a row that it did not answer. `error`: the last failure."""

    store: str
    breaker: BreakerState
    failures: int
    error: str


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
        self._last_error = ""

    @property
    def state(self) -> NodeState:
        """What is known of it now."""
        return NodeState(self.store, self.breaker.state, self.breaker.failures, self._last_error)

    @property
    def is_plain(self) -> bool:
        """Whether a thread may ask it without the event loop: nothing has failed. From any thread."""
        return not self.breaker.failures

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
        waits: bool = False,
    ) -> T:
        """Returns what `attempt()` returns, after at most `retries` repetitions. The result of a transfer is a bool.

        It says whether bytes were moved. `is_probe`: the server is asked also while its breaker is open. `waits`: the
        attempt may wait for something else than the server, so that its being late says nothing about it.

        Raises:
            CircuitOpenError: the server has failed before, and is not asked now.
            OperationTimeoutError: it did not answer in time.
            What `attempt()` raises.
        """
        admission = self.breaker.admit(is_transfer=is_transfer)
        if admission is None and not is_probe:
            raise CircuitOpenError(self.store, self.breaker.failures, self.breaker.retry_in)
        seconds = seconds_for_a_share()
        if not is_transfer and self.breaker.is_probe(admission):
            seconds = min(seconds, self._settings.stall_timeout)
        timer = asyncio.timeout(None if math.isinf(seconds) else seconds)
        told = False
        try:
            async with timer:
                result = await self._attempts(attempt, admission, is_transfer, is_repeatable)
                self._tell(True, admission, is_transfer=is_transfer, has_moved=is_transfer and bool(result))
                told = True
                return result
        except StoreError as error:
            self._last_error = str(error)
            raise
        except TimeoutError:
            if not timer.expired():
                raise
            if not waits:
                told = True
                self._tell(False, admission, is_transfer=is_transfer)
            late = OperationTimeoutError(self.store, operation, seconds)
            self._last_error = str(late)
            raise late from None
        finally:
            if not told:  # each attempt that failed was told already
                self._tell(None, admission, is_transfer=is_transfer)

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
        self._tell(not is_lost, admission, is_transfer=is_transfer)

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


def seconds_for_a_share() -> float:
    """Returns how many seconds a server has for its share of the call under way. Infinity: it has no deadline."""
    left = seconds_left()
    return left if math.isinf(left) else max(0.0, left - min(_MARGIN, _MARGIN_SHARE * left))
