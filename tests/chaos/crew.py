"""`Crew`: the actors of one process, their connectors and their memory, and what the process has in use."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import Lag, LagWatch, ResourceUse, ResourceWatch

from .caller import SETTINGS, Caller, LoopCaller, ThreadCaller
from .journal import Journal
from .keeper import Keeper, own_keys
from .losses import STRUCK, Losses
from .roamer import Roamer
from .throng import Steps, Vandal, throng

UNHARMED: Final = "cut, directly"
"""The same store as `cut`, without the proxy. Only for what must succeed."""

_HARMED: Final = ("flipped", STRUCK)
"""The stores in which records are damaged."""

_BLOCKING: Final = 2
"""Threads without an event loop that call a connector."""

_ON_TIME: Final = 1.0
_ON_TIME_OVER_TLS: Final = 5.0
_LATE: Final = 10.0
"""Seconds for which the bytes of a failed call may still arrive: directly, over TLS, and through a proxy that stalls.

The rest of a put that was begun goes out after it was cancelled, up to 40 MiB. Over TLS that takes several times as
long, on cores that all processes of a storm share.
"""

_RSS_BEYOND: Final = 224 << 20
"""Bytes that a process may have in use beyond what it had at the beginning, and its arena."""


@dataclass(frozen=True)
class Orders:
    """What one process is told. JSON can carry it.

    `name` is that of the process, and `life` counts how often it was started: after a kill, it begins again. `writes`
    is the share of calls that change the store, on keys of all. `keeps`: whether it has keys of its own as well.
    `elsewhere`: whether it also calls from threads and from a second loop. `ends` is in monotonic time. `tasks`: how
    many tasks make single calls at the same time on the store `struck`; with any, nobody else acts.
    """

    name: str
    life: int
    seed: int
    urls: dict[str, str]
    ends: float
    arena: int
    largest: int
    directory: str
    writes: float
    keeps: bool
    elsewhere: bool
    pause: float
    tasks: int = 0

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def keeper_name(self, what: str) -> str:
        """The name of a keeper of this life."""
        return f"{self.name}-{self.life}-{what}"

    def journal_path(self) -> Path:
        """Where this life's journal is kept."""
        return Path(self.directory) / f"journal-{self.name}-{self.life}.json"

    def losses_path(self) -> Path:
        """Where the times are kept at which the server of `struck` was killed."""
        return Path(self.directory) / "kills"


class Crew:
    """Runs actors until `orders.ends`, on the running loop, on another loop, and in threads."""

    def __init__(self, orders: Orders, journal: Journal) -> None:
        self._orders = orders
        self._journal = journal
        self._lags = LagWatch(lambda where: journal.count(f"the event loop is held: {where}"))
        self._resources = ResourceWatch(on_sample=lambda use: journal.save())
        self._ends = orders.ends

    def _rng(self, what: str) -> random.Random:
        orders = self._orders
        return random.Random(f"{orders.seed}/{orders.name}/{orders.life}/{what}")

    async def run(self) -> None:
        """Runs all actors, then checks that everything was let go."""
        orders, journal = self._orders, self._journal
        before = ResourceUse.now()
        backend = LocalCPUBackend(orders.arena)
        async with self._lags, self._resources:
            async with ConnectorManager(local_cpu_backend=backend, config=SETTINGS) as manager:
                rng = self._rng("connectors")
                connectors = {
                    store: await manager.open_connector(_with(url, "io", rng.choice(("thread", "loop", "auto"))))
                    for store, url in orders.urls.items()
                }
                await self._forget_earlier_life(connectors)
                await self._act(connectors, backend)
                journal.measure(
                    "RSS beyond the beginning and the arena, MiB",
                    (ResourceUse.now().rss - before.rss - orders.arena) >> 20,
                )
                self._check_failures(connectors)
        journal.measure("the event loop's lag", self._lags.loop.worst)
        journal.measure("the threads' lag", self._lags.threads.worst)
        self._check_end(backend, before)
        journal.save()

    async def _act(self, connectors: dict[str, ManagedConnector], backend: LocalCPUBackend) -> None:
        lags = [self._lags.loop, self._lags.threads]
        if self._orders.tasks:
            await self._act_as_a_throng(connectors[STRUCK], backend, lags)
            return
        here: Steps = []
        for store, connector in connectors.items():
            if store != UNHARMED:
                caller = LoopCaller(store, connector, self._journal, lags)
                here.append((f"roamer {store}", self._roamer(caller, backend).step))
        if self._orders.keeps:
            for store in ("calm", "cut"):
                caller = LoopCaller(store, connectors[store], self._journal, lags)
                here.append((f"keeper {store}", self._keeper(caller, backend, store).step))
        threads: list[threading.Thread] = []
        if self._orders.elsewhere:
            far_lag = Lag()
            far = LoopCaller("calm", connectors["calm"], self._journal, [*lags, far_lag])
            there: Steps = [
                ("far keeper", self._keeper(far, backend, "far").step),
                ("far roamer", self._roamer(far, backend).step),
            ]
            threads.append(self._elsewhere(there, far_lag, "storm-far"))
            for number in range(_BLOCKING):
                store = ("calm", "cut")[number]
                sync: Caller = ThreadCaller(store, connectors[store], self._journal, lags)
                act: Steps = [("sync keeper", self._keeper(sync, backend, f"sync-{number}").step)]
                threads.append(self._elsewhere(act, Lag(), f"storm-{number}"))
        await self._run_all(here, threads)

    async def _act_as_a_throng(self, connector: ManagedConnector, backend: LocalCPUBackend, lags: list[Lag]) -> None:
        """Most tasks are here, a tenth in another loop, and two in threads without one."""
        orders = self._orders
        losses = Losses(orders.losses_path())
        names = [f"{orders.name}-{number}" for number in range(orders.tasks)]
        far_lag = Lag()
        seed = f"{orders.seed}/{orders.life}"

        def steps(caller: Caller, some: list[str]) -> Steps:
            return throng(caller, backend, losses, some, orders.largest, seed)

        far = names[_BLOCKING::10]
        near = [name for name in names[_BLOCKING:] if name not in set(far)]
        here = steps(LoopCaller(STRUCK, connector, self._journal, lags), near)
        there = steps(LoopCaller(STRUCK, connector, self._journal, [*lags, far_lag]), far)
        threads = [self._elsewhere(there, far_lag, "storm-far")]
        for name in names[:_BLOCKING]:
            blocking = steps(ThreadCaller(STRUCK, connector, self._journal, lags), [name])
            threads.append(self._elsewhere(blocking, Lag(), f"storm-{name}"))
        vandal = Vandal(orders.urls[STRUCK], losses, names, self._rng("vandal"), self._journal)
        await self._run_all([*here, ("vandal", vandal.step)], threads)

    def _elsewhere(self, actors: Steps, lag: Lag, name: str) -> threading.Thread:
        return threading.Thread(target=self._run_elsewhere, args=(actors, lag), name=name)

    async def _run_all(self, here: Steps, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.start()
        await self._run(here)
        for thread in threads:
            await asyncio.to_thread(thread.join, 60)
            if thread.is_alive():
                self._journal.violate(f"the thread {thread.name} has not ended 60 s after the storm")

    def _keeper(self, caller: Caller, backend: LocalCPUBackend, what: str) -> Keeper:
        name = self._orders.keeper_name(what)
        is_tls = self._orders.urls[caller.store].startswith("rediss")
        stray = _LATE if caller.store == "cut" else _ON_TIME_OVER_TLS if is_tls else _ON_TIME
        return Keeper(caller, backend, self._rng(f"keeper {what}"), name, stray, self._orders.largest)

    def _roamer(self, caller: Caller, backend: LocalCPUBackend) -> Roamer:
        rng = self._rng(f"roamer {caller.store}")
        return Roamer(caller, backend, rng, self._orders.writes, self._orders.largest)

    async def _run(self, actors: Steps) -> None:
        await asyncio.gather(*(self._live(name, step) for name, step in actors))

    async def _live(self, name: str, step: Callable[[], Any]) -> None:
        rng = self._rng(f"pauses {name}")
        while True:
            try:
                await step()
            except Exception as error:
                self._journal.violate(f"{name}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.1)
            if time.monotonic() >= self._ends:
                return
            await asyncio.sleep(rng.expovariate(1 / self._orders.pause))

    def _run_elsewhere(self, actors: Steps, lag: Lag) -> None:
        async def run() -> None:
            ticking = asyncio.ensure_future(lag.watch())
            await self._run(actors)
            ticking.cancel()

        asyncio.run(run())

    async def _forget_earlier_life(self, connectors: dict[str, ManagedConnector]) -> None:
        """Removes what the killed process of this name had put, since nobody knows any more what it was."""
        orders = self._orders
        if orders.life and orders.keeps:
            earlier = replace(orders, life=orders.life - 1)
            for what, store in (("calm", "calm"), ("cut", UNHARMED)):
                await connectors[store].batched_remove(own_keys(earlier.keeper_name(what)))

    # --------------------------------------------------------------------------------------------------- checks

    def _check_failures(self, connectors: dict[str, ManagedConnector]) -> None:
        """Where nothing harms the wire, nothing may have looked damaged, and nothing may have been removed for it."""
        for store, connector in connectors.items():
            for operation in connector.statistics().values():
                for reason, number in operation.misses.items():
                    self._journal.count(f"{store} misses: {reason}", number)
                    if reason.startswith("corrupt:") and reason != "corrupt:replaced" and store not in _HARMED:
                        self._journal.violate(f"{store}: {number} times {reason}, though nothing harms its bytes")
            for (reason, fate), number in connector.metrics.snapshot_of_removals().items():
                self._journal.count(f"{store} damaged records: {reason}, {fate}", number)

    def _check_end(self, backend: LocalCPUBackend, before: ResourceUse) -> None:
        gc.collect()
        name, journal = self._orders.name, self._journal
        held = backend.statistics()
        if held.reserved or held.live_objects or held.leaked_objects or held.waiters:
            journal.violate(f"{name}: the arena is not empty at the end: {held}")
        backend.close()
        spare = dict(_SPARE)
        if self._orders.elsewhere or self._orders.tasks:
            spare["descriptors"] += _BLOCKING  # by which their calls were woken, kept for further calls
        # For each URL one that looked at the files of certificates, which anyio keeps for the next call.
        spare["threads"] += sum(url.startswith("rediss") for url in self._orders.urls.values())
        now = ResourceUse.now()
        for what, most in spare.items():
            number, at_first = getattr(now, what), getattr(before, what)
            journal.measure(f"{what} left at the end, beyond the beginning", number - at_first)
            if number > at_first + most:
                journal.violate(f"{name}: {number} {what} at the end, {at_first} at the beginning")
            grown = self._resources.growth(what)
            journal.measure(f"{what}, growth over the storm", grown)
            if grown > 16:
                journal.violate(f"{name}: {what} grew by {grown:.0f} over the storm")
        beyond = now.rss - before.rss
        if beyond > _RSS_BEYOND + self._orders.arena:
            journal.violate(f"{name}: {beyond >> 20} MiB more in use than at the beginning, arena included")


_SPARE: Final = {"descriptors": 0, "threads": 8, "tasks": 0}
"""What may be left: threads that the event loop and anyio keep for the next call."""


def _with(url: str, option: str, value: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}={value}"
