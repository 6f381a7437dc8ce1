"""`LoopStream`: a connection's bytes, moved on an event loop.

A transfer begins in the caller's task, which steps it once (`_move`). It often ends there: the socket was ready, and
everything fitted into one turn. A turn is what a transfer may move in one iteration of the loop: see `turns.py`.

Otherwise the transfer becomes a `_Waiting`, and the caller's task sleeps until callbacks of the loop have finished it
(`_finish_in_callbacks`). Each callback moves one turn (`_step_waiting`). It is called when the socket is ready, or when
the loop has done its other work. So a long transfer costs no task switches.
"""

from __future__ import annotations

import asyncio

from ..lease import leases
from .stall_clock import StallClock
from .stream import Stream
from .thread_stream import ThreadStream
from .transfer import Sending, Transfer
from .turns import turns_of
from .wire import BLOCKED, Wire


class _Waiting:
    """A transfer that could not finish at once, and goes on when the socket is ready or its next turn has come."""

    __slots__ = ("future", "leases", "reading", "transfer")

    def __init__(self, transfer: Transfer, reading: bool, future: asyncio.Future[None]) -> None:
        self.transfer = transfer
        self.reading = reading
        self.future = future
        self.leases = leases()


class LoopStream(Stream):
    """A non-blocking stream on one event loop.

    It carries one transfer in each direction at a time.
    """

    __slots__ = (
        "_budget",
        "_clock",
        "_loop",
        "_reader_on",
        "_reading",
        "_stall_timer",
        "_turns",
        "_wire",
        "_writer_on",
        "_writing",
    )

    def __init__(self, wire: Wire, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(wire.scratch, wire.peer, wire)
        self._wire = wire
        self._loop = loop
        self._turns = turns_of(loop)
        self._budget = self._turns.turn_bytes()
        """What is left of this stream's turn for transfers that need not wait."""
        self._reading: _Waiting | None = None
        self._writing: _Waiting | None = None
        self._reader_on = self._writer_on = False
        self._clock = StallClock(wire)
        self._stall_timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------------- transfers

    async def _move(self, transfer: Transfer, *, reading: bool) -> None:
        """Steps a transfer to its end: at once where the socket is ready, otherwise from the loop's callbacks."""
        wire = self._wire
        self._turns.transfers += 1
        try:
            if not wire.is_open:
                raise wire.closed_error()
            if wire.is_taken_over:
                raise RuntimeError(f"a thread has taken over {self.peer}; use the connection's `stream`")
            moved, is_blocked = None, False
            try:
                moved = transfer.step(wire, self._budget)
            except BLOCKED:
                is_blocked = True
            # Not inside the handler: what is raised later would carry the blocked call's frames, and so its buffer.
            if moved is None:
                await self._finish_in_callbacks(transfer, reading, is_blocked)
                return
            # Data that is always there already would keep the loop from everything else.
            self._budget -= moved
            if self._budget <= 0:
                self._budget = self._turns.turn_bytes()
                await asyncio.sleep(0)
        except OSError as error:
            failure = wire.failure(error)
            self.close()
            raise failure from error.with_traceback(None)
        except BaseException:
            self.close()
            raise
        finally:
            self._turns.transfers -= 1
            transfer.release()

    async def _finish_in_callbacks(self, transfer: Transfer, reading: bool, is_blocked: bool) -> None:
        """Waits until the loop's callbacks have finished a transfer. If it is not blocked, only its turn is over."""
        self.waits += 1
        self._budget = self._turns.turn_bytes()
        waiting = _Waiting(transfer, reading, self._loop.create_future())
        if is_blocked:
            self._wait_for_socket(waiting)
        else:
            self._wait_for_turn(waiting)
        try:
            await waiting.future
        finally:
            self._forget(waiting)

    def recall(self) -> bool:
        """Hands the payload that is being sent back to its owner, who wants it."""
        if self._writing is not None and isinstance(self._writing.transfer, Sending):
            self._writing.transfer.recall()
        return True

    def _step_waiting(self, waiting: _Waiting) -> None:
        """Moves one turn of a transfer that waited."""
        if waiting.future.done():
            return
        if any(lease.is_recalled for lease in waiting.leases):  # this loop stood still, and its caller went on
            waiting.future.set_exception(self._wire.closed_error())
            return
        try:
            finished = waiting.transfer.step(self._wire, self._turns.turn_bytes()) is not None
        except BLOCKED:
            self._wait_for_socket(waiting)
        except Exception as error:
            # Its frames hold slices of the buffer, which must not live as long as the error does.
            waiting.future.set_exception(error.with_traceback(None))
        else:
            if finished:
                waiting.future.set_result(None)
            else:
                self._wait_for_turn(waiting)

    def _wait_for_turn(self, waiting: _Waiting) -> None:
        """Goes on with a transfer after other work of the loop."""
        if self._wire.hides_bytes:
            self._loop.call_soon(self._step_waiting, waiting)  # the selector would not tell of them
        else:
            self._wait_for_socket(waiting)

    def _wait_for_socket(self, waiting: _Waiting) -> None:
        """Goes on with a transfer when the socket is ready.

        The registration with the loop outlives the transfer: in a row of replies the next one finds it in place, and
        so does the timer of stalls.
        """
        self._clock.moved_at = self._loop.time()
        if self._stall_timer is None:
            self._set_stall_timer()
        if waiting.reading:
            self._reading = waiting
            if not self._reader_on:
                self._loop.add_reader(self._wire.fileno(), self._readable)
                self._reader_on = True
        else:
            self._writing = waiting
            if not self._writer_on:
                self._loop.add_writer(self._wire.fileno(), self._writable)
                self._writer_on = True

    def _forget(self, waiting: _Waiting) -> None:
        if self._reading is waiting:
            self._reading = None
        if self._writing is waiting:
            self._writing = None
            # A socket is nearly always writable: without a transfer the registration would spin.
            self._stop_writer()

    def _readable(self) -> None:
        if self._reading is None:
            self._stop_reader()  # nobody reads just now: what came stays in the kernel
        else:
            self._step_waiting(self._reading)

    def _writable(self) -> None:
        if self._writing is None:
            self._stop_writer()
        else:
            self._step_waiting(self._writing)

    def _stop_reader(self) -> None:
        if self._reader_on and not self._wire.is_forked():  # a fork shares the parent's epoll
            self._reader_on = False
            self._loop.remove_reader(self._wire.fileno())

    def _stop_writer(self) -> None:
        if self._writer_on and not self._wire.is_forked():
            self._writer_on = False
            self._loop.remove_writer(self._wire.fileno())

    # ----------------------------------------------------------------------------------------------------- stalls

    def _set_stall_timer(self) -> None:
        if self._wire.stall_timeout is not None:
            left = max(0.0, self._clock.left(self._loop.time()))
            self._stall_timer = self._loop.call_later(left, self._look_for_stall)

    def _look_for_stall(self) -> None:
        """Ends what waits on a connection without progress, and closes it. See `stall_clock.py`."""
        self._stall_timer = None
        waiting = [each for each in (self._reading, self._writing) if each is not None and not each.future.done()]
        if not waiting or not self._wire.is_open:
            return
        if self._clock.left(self._loop.time()) <= 0:
            # The loop may have been held meanwhile, so that what came was not looked at: this is the last look.
            wire = self._wire
            before = wire.bytes_received + wire.bytes_sent
            for each in waiting:
                self._step_waiting(each)
            self._stop_stall_timer()
            if wire.is_open and wire.bytes_received + wire.bytes_sent == before and not _any_done(waiting):
                for each in waiting:
                    each.future.set_exception(self._clock.error())
                return
            self._clock.moved_at = self._loop.time()
        self._set_stall_timer()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # -------------------------------------------------------------------------------------------------- lifetime

    def take_over(self) -> ThreadStream:
        """Returns the stream with which one thread moves this connection's bytes, until its `hand_back()`.

        This stream must not be used meanwhile, except for `close()`. See `thread_stream`.
        """
        self._stop_reader()
        self._stop_writer()
        return ThreadStream(self._wire)

    @property
    def is_open(self) -> bool:
        """Whether this end of the connection is open."""
        return self._wire.is_open

    def is_quiet(self) -> bool:
        """Returns whether an idle connection can be used again: it is open at both ends, with nothing to read."""
        return self._wire.is_quiet()

    def close(self) -> None:
        """Closes the connection at once. Idempotent. A transfer that waits fails, and touches its buffer no more."""
        if not self._wire.is_open:
            return
        self._stop_reader()
        self._stop_writer()
        self._stop_stall_timer()
        for waiting in (self._reading, self._writing):
            if waiting is not None and not waiting.future.done():
                waiting.future.set_exception(self._wire.closed_error())
        self._reading = self._writing = None
        self._wire.close()


def _any_done(waiting: list[_Waiting]) -> bool:
    return any(each.future.done() for each in waiting)
