"""`Breakage`: one way in which a store, or the way to it, is broken and mended again."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ...testing import Direction, Fault, FaultKind, FaultProxy
from .history import History


class Breakage(ABC):
    """What happens to a store for a while. `kind` is what reports call it."""

    kind: str

    loses: bool = False
    """Whether chunks that were stored are gone afterwards."""

    longest: float = 4.0
    """Seconds that it lasts at most."""

    @abstractmethod
    async def begin(self, history: History) -> None:
        """Breaks it. Says to `history` what may happen to chunks."""

    @abstractmethod
    async def end(self, history: History) -> None:
        """Mends it. Returns once the store can be reached again."""

    @abstractmethod
    async def tidy(self, history: History) -> None:
        """Makes the rest as it was, such as a replica that is missing. The store can be used meanwhile."""

    @property
    def fired(self) -> int | None:
        """On how many connections it has fired since it began; None where nobody counts."""
        return None


_AGAIN: Final = 0.05

_SUDDEN: Final = 64 << 10
"""Within so many bytes, connections are broken."""


class ProxyBreakage(Breakage):
    """A fault on every connection through some proxies, until it is mended."""

    def __init__(self, proxies: Sequence[FaultProxy], fault: Fault, *, drops: bool = False) -> None:
        """`drops`: whether connections are closed at its beginning and end.

        At the end, because no server may read on in a stream in which bytes are missing.
        """
        self._proxies = tuple(proxies)
        self._fault = fault
        self._drops = drops
        self._rng = random.Random(str(fault))
        self._again: asyncio.Task[None] | None = None
        self._fired = 0
        where = "" if fault.kind is FaultKind.REFUSE else f" {fault.direction.value.replace('_', ' ')}"
        self.kind = f"{_WORDS[fault.kind]}{where}"

    async def begin(self, history: History) -> None:
        if self._fault.kind in _DAMAGING:
            history.loses()  # a record that looks damaged is removed
        for proxy in self._proxies:
            proxy.arm(self._next())
        self._fired = 0
        if self._fault.kind is FaultKind.REFUSE:
            for proxy in self._proxies:
                proxy.drop_all()
        if self._fault.kind in _DAMAGING:
            self._again = asyncio.ensure_future(self._arm_again())

    def _next(self) -> Fault:
        """The fault, at another place in the stream each time: anywhere from its first bytes on."""
        if not self._fault.after_bytes:
            return self._fault
        return replace(self._fault, after_bytes=int(self._fault.after_bytes ** self._rng.random()))

    async def _arm_again(self) -> None:
        """A fault fires once on each connection, and these do not end the connection."""
        while True:
            await asyncio.sleep(_AGAIN)
            for proxy in self._proxies:
                self._fired += proxy.fired
                proxy.arm(self._next())

    async def end(self, history: History) -> None:
        if self._again is not None:
            self._again.cancel()
            await asyncio.gather(self._again, return_exceptions=True)
            self._again = None
        for proxy in self._proxies:
            proxy.disarm(drop=self._drops)

    async def tidy(self, history: History) -> None:
        """Nothing is left."""

    @property
    def fired(self) -> int | None:
        return self._fired + sum(proxy.fired for proxy in self._proxies)


_DAMAGING: Final = frozenset({FaultKind.FLIP, FaultKind.INSERT})

_WORDS: Final = {
    FaultKind.RESET: "reset",
    FaultKind.CLOSE: "close",
    FaultKind.TRUNCATE_AND_CLOSE: "half-close",
    FaultKind.STALL: "stall",
    FaultKind.SWALLOW: "black hole",
    FaultKind.DELAY: "delay",
    FaultKind.DRIP: "slow drip",
    FaultKind.INSERT: "extra bytes",
    FaultKind.FLIP: "flipped bit",
    FaultKind.REFUSE: "refused connections",
}


def proxy_breakages(proxies: Sequence[FaultProxy], *, finds_damage: bool) -> list[Breakage]:
    """Every fault of a proxy that cannot harm the store itself.

    No byte on its way to the server is changed: it could name another key. Where bytes on their way there are lost, the
    connection ends.

    Args:
        proxies: those in front of the store's servers.
        finds_damage: whether the client finds a byte that was changed. Otherwise none is.
    """
    up, down = Direction.TO_SERVER, Direction.TO_CLIENT
    faults: list[Breakage] = []
    for direction in (down, up):
        faults += [
            ProxyBreakage(proxies, Fault(FaultKind.RESET, direction, after_bytes=_SUDDEN)),
            ProxyBreakage(proxies, Fault(FaultKind.CLOSE, direction, after_bytes=_SUDDEN)),
            ProxyBreakage(proxies, Fault(FaultKind.TRUNCATE_AND_CLOSE, direction, after_bytes=_SUDDEN)),
            ProxyBreakage(proxies, Fault(FaultKind.STALL, direction, after_bytes=_SUDDEN)),
            ProxyBreakage(proxies, Fault(FaultKind.SWALLOW, direction, after_bytes=_SUDDEN), drops=True),
            ProxyBreakage(proxies, Fault(FaultKind.DELAY, direction, delay=0.2)),
            ProxyBreakage(proxies, Fault(FaultKind.DRIP, direction, rate=256 << 10)),
        ]
    faults.append(ProxyBreakage(proxies, Fault(FaultKind.REFUSE)))
    if finds_damage:
        faults += [
            ProxyBreakage(proxies, Fault(FaultKind.FLIP, down, after_bytes=_SUDDEN), drops=True),
            ProxyBreakage(proxies, Fault(FaultKind.INSERT, down, after_bytes=_SUDDEN, data=b"+OK\r\n"), drops=True),
        ]
    return faults


class ServerBreakage(Breakage):
    """Base of what happens to servers that the command has started. Their methods block, so each runs in a thread."""

    async def begin(self, history: History) -> None:
        await asyncio.to_thread(self._break, history)

    async def end(self, history: History) -> None:
        await asyncio.to_thread(self._mend, history)

    async def tidy(self, history: History) -> None:
        await asyncio.to_thread(self._tidy, history)

    def _break(self, history: History) -> None:
        raise NotImplementedError

    def _mend(self, history: History) -> None:
        """Nothing is to be done where it mends itself."""

    def _tidy(self, history: History) -> None:
        """Nothing is left."""
