"""`stopping_on_signals`: the first Ctrl-C, or SIGTERM, asks a copy to end; the second ends it at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Received:
    """Which signal came first; None: there was no signal."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None


@contextlib.contextmanager
def stopping_on_signals(stop: asyncio.Event) -> Iterator[Received]:
    """Sets `stop` on the first signal, and cancels the task that entered the block on the second."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    received = Received()
    before = {each: signal.getsignal(each) for each in _SIGNALS}

    def came(number: signal.Signals) -> None:
        if received.first is None:
            received.first = number
            stop.set()
        elif task is not None:
            task.cancel()

    for each in _SIGNALS:
        loop.add_signal_handler(each, came, each)
    try:
        yield received
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, before[each] or signal.SIG_DFL)
