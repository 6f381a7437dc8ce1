"""`Fault`: something that goes wrong; `Trial`: the connectors that it happens to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from lmcache_connect.testing import payload

from ..callers.caller import Caller
from ..cell import WRONG, Mode, Operation, Seen
from ..limits import DEADLINE, SIZE
from ..places.place import Place, Way

HANGS: Final = DEADLINE + 8
"""Seconds after which a call is ended from outside. It is late long before."""


AFTER: Final = 2


@dataclass
class Trial:
    """One fault on one store, with a caller for each error mode.

    Attributes:
        keys: for each mode and operation the key that is asked for. That of a get is stored, in version 0. A put stores
            version 1. What is stored once a fault is over has the version `AFTER`.
        shared: what a fault keeps from its beginning for its end.
        recoveries: how often it was looked whether everything works again.
    """

    place: Place
    callers: dict[Mode, Caller]
    keys: dict[tuple[Mode, Operation], str]
    shared: list[object] = field(default_factory=list)
    recoveries: int = 0

    async def call(self, mode: Mode, operation: Operation) -> str:
        """Makes one call, and says what came of it. A put that returned is `stored` until somebody has looked."""
        key, caller = self.keys[mode, operation], self.callers[mode]
        if operation == "put":
            return "stored" if await caller.put(key, payload(key, SIZE, 1)) else "False"
        return judged(key, await caller.get(key), 0, AFTER)


class Fault:
    """Base of the faults.

    Attributes:
        name: how the command and the document call it.
        title, text: what an operator reads: what it is called, and what happens.
        family: the group of faults that it stands in.
        needs: the name in `Place.offers` without which a column does not have this fault; "": every column has it.
        way: how the connectors reach the store.
        each: whether it happens to each call by itself. Otherwise all calls are made at the same time.
        only_applications: whether it cannot happen to the client of an engine.
    """

    name: str
    title: str
    text: str
    family: str
    needs: str = ""
    way: Way = "direct"
    each: bool = False
    only_applications: bool = False

    async def begin(self, trial: Trial, operation: Operation | None) -> None:
        """It begins. `operation` is the one that is about to be made, where it happens to each by itself."""

    async def end(self, trial: Trial) -> None:
        """It is over."""

    async def measure(self, trial: Trial, mode: Mode, operation: Operation) -> Seen:
        """Makes the call, and says what came of it and when."""
        return await timed(lambda: trial.call(mode, operation))


async def timed(call: Callable[[], Awaitable[str]]) -> Seen:
    """What a call came to. An error counts by its class. One that hangs is cancelled."""
    begun = time.monotonic()
    try:
        outcome = await asyncio.wait_for(call(), HANGS)
    except Exception as error:
        outcome = name_of(error)
    return Seen.of(outcome, time.monotonic() - begun)


def name_of(error: BaseException) -> str:
    """The error's class, or the class that it derives from and that users can name."""
    public = [kind for kind in type(error).__mro__ if kind.__module__ == "lmcache_connect.errors"]
    return (public or [type(error)])[0].__name__


def judged(key: str, found: bytes | None, *versions: int) -> str:
    """`value`, `miss` or `WRONG VALUE`."""
    if found is None:
        return "miss"
    return "value" if found in [payload(key, SIZE, version) for version in versions] else WRONG


async def in_thread(call: Callable[..., object], *arguments: object) -> None:
    """Runs what blocks, beside the event loop."""
    await asyncio.to_thread(call, *arguments)
