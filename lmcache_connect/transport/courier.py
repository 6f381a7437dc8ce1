"""`Couriers`: threads in which streams move their bytes, while the event loop does other things."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from .stream import ByteStream

T = TypeVar("T")


class Connection(Protocol):
    """What has a stream that a thread may take over."""

    stream: ByteStream


class _Errand(NamedTuple):
    work: Coroutine[Any, Any, Any]
    settled: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


_Errands: TypeAlias = SimpleQueue[_Errand | None]


class Couriers:
    """Threads of one event loop, each of which serves one stream at a time. They are started on first use.

    A blocking socket in a thread moves a large chunk with fewer system calls than one on the event loop, hashes it
    without holding up anybody, and holds no turn of the loop. Errands are coroutines that wait for nothing but their
    stream, which does not suspend them while it is lent: so one body of code serves the loop and the thread.
    """

    def __init__(self) -> None:
        self._idle: list[_Errands] = []
        self._out = 0
        self._closed = False

    @property
    def threads(self) -> int:
        """Threads that live: those on an errand, and those that wait for one."""
        return len(self._idle) + self._out

    async def run(self, connection: Connection, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` in a thread, with the connection's stream lent to it, and returns its result.

        A caller that is cancelled ends the stream, and goes on when the thread has let go of every buffer: at once,
        but for the piece in hand.

        Raises:
            What `work` raises.
            RuntimeError: `work` waits for something else than the stream, or no thread could be started.
        """
        stream = connection.stream
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[T] = loop.create_future()
        errands = self._take(work)
        try:
            stream.lend()
            errands.put(_Errand(work, settled, loop))
            del work  # a kept traceback keeps this frame, and must not keep what the work holds
            try:
                return await asyncio.shield(settled)
            except BaseException:
                stream.interrupt()
                await _wait_for(settled)
                raise
        finally:
            stream.take_back()
            self._out -= 1
            if self._closed:
                errands.put(None)
            else:
                self._idle.append(errands)

    def _take(self, work: Coroutine[Any, Any, Any]) -> _Errands:
        if self._idle:
            errands = self._idle.pop()
        else:
            errands = SimpleQueue()
            # A daemon: a connector that was never closed must not keep the process alive.
            thread = threading.Thread(target=_serve, args=(errands,), name="lmcache-connect courier", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                work.close()
                raise
        self._out += 1
        return errands

    def close(self) -> None:
        """Ends the threads, those on an errand after it. Idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().put(None)

    def __del__(self) -> None:
        self.close()


async def in_thread(work: Callable[[], T]) -> T:
    """What `work()` gives, in a thread. Whoever is cancelled goes on when it has ended, and has let go of its buffers.

    Raises:
        What `work` raises.
    """
    settled = asyncio.ensure_future(anyio.to_thread.run_sync(work))
    try:
        return await asyncio.shield(settled)
    except BaseException:
        await _wait_for(settled)
        raise


async def _wait_for(settled: asyncio.Future[Any]) -> None:
    with anyio.CancelScope(shield=True):
        while not settled.done():
            try:
                await asyncio.wait((settled,))
            except asyncio.CancelledError:
                pass  # anyio's shields do not stop a native one; the caller raises the first of them
    if not settled.cancelled():
        settled.exception()  # retrieved, whatever it is


def _serve(errands: _Errands) -> None:
    while (errand := errands.get()) is not None:
        work, settled, loop = errand
        result: Any = None
        error: BaseException | None = None
        try:
            work.send(None)
        except StopIteration as end:
            result = end.value
        except BaseException as raised:
            # Its frames hold views of buffers, and whoever keeps the error would keep those.
            error = raised.with_traceback(None)
        else:
            work.close()
            error = RuntimeError("an errand waited for something that is not its stream")
        try:
            loop.call_soon_threadsafe(_settle, settled, result, error)
        except RuntimeError:
            return  # the loop was closed under us: nobody waits, and nobody will come again
        del errand, work, settled, loop, result, error  # not kept until the next errand


def _settle(settled: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if settled.done():
        return
    if error is None:
        settled.set_result(result)
    else:
        settled.set_exception(error)
