"""`FaultConnector`: injects errors, delays and resets into the calls of another connector."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio

from lmcache_connect import Key, RemoteConnector, StoreUnavailableError, WrappingConnector
from lmcache_connect.contract import end_scan
from lmcache_connect.memory import release_all

T = TypeVar("T")


@dataclass(frozen=True)
class FaultPlan:
    """What is injected, and how often. Rates are shares of calls, from 0 to 1. Times are seconds."""

    error_rate: float
    reset_rate: float
    reset_within: float
    delay_rate: float
    delay: float
    seed: int
    operations: frozenset[str]


class InjectedFaultError(StoreUnavailableError):
    """An injected failure. Its class tells it from a real one."""


class FaultConnector(WrappingConnector):
    """Makes calls fail as a lost store does. Retries, the circuit breaker and `errors=miss` see no difference.

    A reset cancels the call of the wrapped connector at a random moment, so that a connector on a network really drops
    its connection in the middle of a value. The result of a call that has ended by then is dropped. `injected` counts
    the failures by kind.
    """

    def __init__(self, wrapped: RemoteConnector, store: str, plan: FaultPlan) -> None:
        super().__init__(wrapped)
        self._store = store
        self._plan = plan
        self._random = random.Random(plan.seed)
        self.injected: Final[Counter[str]] = Counter()

    async def around(self, operation: str, keys: Sequence[Key], call: Callable[[], Awaitable[T]]) -> T:
        """Returns what `call()` returns, unless this call is to fail.

        Raises:
            InjectedFaultError: the injected failure.
        """
        plan = self._plan
        if operation not in plan.operations:
            return await call()
        # As many draws for every call, so that what happens to one does not depend on what happened to others.
        is_late, fails, is_cut, moment = (self._random.random() for _ in range(4))
        if is_late < plan.delay_rate:
            self.injected["delay"] += 1
            await anyio.sleep(plan.delay)
        if fails < plan.error_rate:
            self.injected["error"] += 1
            raise InjectedFaultError(self._store, f"an injected error in {operation}")
        if is_cut >= plan.reset_rate:
            return await call()
        self.injected["reset"] += 1
        with anyio.move_on_after(moment * plan.reset_within):
            release_all(await call())
        raise InjectedFaultError(self._store, f"an injected reset in {operation}")

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys of the wrapped connector. A fault comes before the first one, so the keys are complete or none.

        Raises:
            InjectedFaultError: the injected failure.
        """
        await self.around("scan", (), _nothing)
        names = super().scan(prefix)
        try:
            async for name in names:
                yield name
        finally:
            await end_scan(names)


async def _nothing() -> None:
    pass
