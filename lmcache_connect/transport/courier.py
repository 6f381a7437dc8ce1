"""`Couriers`: threads that move the bytes of streams, while the event loop does other things.

A courier is one thread with a queue. A job is a coroutine of protocol code that waits for nothing but its connection's
stream. `Couriers.run(connection, job)` does this:

1. A thread stream takes over the connection's wire, and becomes `connection.stream`: see `thread_stream.py`.
2. An idle courier, or a new one, gets the job. It steps the coroutine once, which runs it to its end, because a thread
   stream never suspends it.
3. The courier sends the outcome to the event loop, where `run` waits for it.
4. The wire is handed back, and `connection.stream` is the loop stream again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from ..lease import Use
from .connection import Connection
from .loop_stream import LoopStream
from .thread_stream import ThreadStream
from .waiting import wait_and_drop

T = TypeVar("T")


class _Entry(NamedTuple):
    """A job in a courier's queue, and where its outcome goes."""

    job: Coroutine[Any, Any, Any]
    outcome: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    use: Use


class _Courier:
    """A thread that runs jobs, one after the other."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        # A daemon: a connector that was never closed must not keep the process alive.
        threading.Thread(target=self._serve, name="lmcache-connect courier", daemon=True).start()

    async def run(self, stream: ThreadStream, job: Coroutine[Any, Any, T]) -> T:
        """Runs `job`, which uses `stream`, and returns its result.

        If the job fails or the caller is cancelled, `stream` is closed. A caller whose event loop has ended, and whose
        frames are collected, blocks until the thread has let go.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        use = Use(stream.close)
        self._queue.put(_Entry(job, outcome, loop, use))
        try:
            return await asyncio.shield(outcome)
        except BaseException as ended:
            stream.close()
            if not isinstance(ended, GeneratorExit):  # after that one nothing can be awaited
                await wait_and_drop(outcome)
            raise
        finally:
            use.wait()

    def end(self) -> None:
        """Ends the thread, after the job that it runs."""
        self._queue.put(None)

    def _serve(self) -> None:
        """What the thread does."""
        while (entry := self._queue.get()) is not None:
            job, outcome, loop, use = entry
            result: Any = None
            error: BaseException | None = None
            try:
                job.send(None)
            except StopIteration as end:
                result = end.value
            except BaseException as raised:
                # Its frames hold views of buffers, which must not live as long as the error does.
                error = raised.with_traceback(None)
            else:
                job.close()
                error = RuntimeError("a courier's job waited for something that is not its stream")
            use.end()
            try:
                loop.call_soon_threadsafe(_resolve, outcome, result, error)
            except RuntimeError:
                return  # the loop was closed: nobody waits for the outcome, and no further job will come
            del entry, job, outcome, loop, use, result, error  # not kept until the next job


class Couriers:
    """The couriers of one event loop, each of which serves one connection at a time. They are started on first use.

    A blocking socket in a thread moves a large chunk with fewer system calls than one on the event loop, and hashes it
    without holding up the loop. The same protocol code runs on the loop and in a courier.
    """

    def __init__(self) -> None:
        self._idle: list[_Courier] = []
        self._busy = 0
        self._closed = False

    @property
    def threads(self) -> int:
        """The number of threads that live: those with a job, and those that wait for one."""
        return len(self._idle) + self._busy

    async def run(self, connection: Connection, job: Coroutine[Any, Any, T]) -> T:
        """Runs `job` in a thread, and returns its result. The thread takes the connection over meanwhile.

        `connection.stream` is a `ThreadStream` while `job` runs, and the loop stream again when this returns.

        A job that fails closes the connection. So does a caller that is cancelled. It goes on when the thread has let
        go of every buffer, which takes as long as the piece that the thread is moving.

        Raises:
            What `job` raises.
            RuntimeError: `job` waits for something else than the stream, no thread could be started, or a thread has
                the connection already.
        """
        try:
            with _taken_over(connection) as stream:
                courier = self._idle.pop() if self._idle else _Courier()
                self._busy += 1
                try:
                    return await courier.run(stream, job)
                finally:
                    self._release(courier)
        finally:
            job.close()  # for a job that never began

    def _release(self, courier: _Courier) -> None:
        self._busy -= 1
        if self._closed:
            courier.end()
        else:
            self._idle.append(courier)

    def close(self) -> None:
        """Ends the threads. Those with a job end after it. Idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().end()

    def __del__(self) -> None:
        self.close()


@contextmanager
def _taken_over(connection: Connection) -> Iterator[ThreadStream]:
    """Exchanges the connection's loop stream for a thread stream, for the length of the block."""
    loop_stream = connection.stream
    if not isinstance(loop_stream, LoopStream):
        raise RuntimeError(f"{loop_stream!r} is not on an event loop: a thread may have taken it over already")
    connection.stream = thread_stream = loop_stream.take_over()
    try:
        yield thread_stream
    finally:
        thread_stream.hand_back()
        connection.stream = loop_stream


def _resolve(outcome: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)
