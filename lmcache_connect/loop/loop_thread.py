"""`LoopThread`: a thread that runs one event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from ..errors import LoopNotRunningError
from ..process import this_process
from .mailbox import call_soon

_JOIN_SECONDS: Final = 10.0


class LoopThread:
    """A daemon thread that runs one loop until it is told to stop. The loop runs when the constructor returns.

    It does not know its owner, so that an owner that nobody holds any more can be collected.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, name: str) -> None:
        self._process = this_process()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise LoopNotRunningError("its thread could not start it") from self._failure

    def _main(self) -> None:
        try:
            # The runner cancels what is left over, ends async generators and joins the executor.
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._until_stopped())
        except BaseException as failure:  # handed to the thread that waits for the start
            if self._ready.is_set():
                raise
            self._failure = failure
            self._ready.set()

    async def _until_stopped(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()

    def stop(self) -> None:
        """Tells the loop to end, and does not wait. Does nothing in a fork."""
        if not self._process.is_forked():  # a fork shares the parent's wake-up socket and must not write to it
            call_soon(self.loop, self._stop.set)

    def join(self) -> None:
        """Waits until the thread has ended, for ten seconds at most."""
        self._thread.join(timeout=_JOIN_SECONDS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
