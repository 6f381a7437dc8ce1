"""`Lane`: calls of one kind to one server. Those that are made at the same time share a connection.

A call that is alone runs in its own task, over a connection of its own, and at once. Others that are made meanwhile
queue. A driver, which is a task of the lane, acquires a connection and serves all of them by one pipeline: it sends
requests while the replies to earlier ones are on their way. It goes on as long as there are requests. Nothing waits for
company.

Each call's task waits for its own call. So it keeps its deadline and its retries, goes on when its own bytes are there,
and may be cancelled. What becomes of the others then:

* A request that was not sent is dropped.
* The reply to one that was sent is received and dropped when it comes; a long one closes the connection.
* A payload that is just being received has `GRACE` seconds to end. Then the connection is closed. What is left of one
  that is being sent is copied, and goes out from the copy.

What was sent over a connection that was closed here, and not answered, is sent again over another one. The calls do not
learn of it. That is for gets alone: a put or a removal that is done a second time might undo a newer one. A connection
that was lost ends the calls whose requests it carried, and no others: each of them gets an error of its own, and all of
those have the same `incident`, by which the circuit breaker counts them once.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Final, Generic, TypeVar

from ..errors import ConnectorClosedError, Incident, ReleasedObjectError, StoreError, StoreUnavailableError
from ..lease import WAIT_SECONDS, work_under
from ..process import this_process
from ..transport import Connection, ConnectionPool, Couriers, StreamClosedError, wait_uncancelled
from .call_queue import CallQueue
from .combined_call import CombinedCall, twin
from .pipeline import Pipeline

C = TypeVar("C", bound=Connection)
W = TypeVar("W", bound=CombinedCall)

GRACE: Final = 0.02
"""Seconds that a payload has to end which is being moved for a call that was cancelled."""

SHARE_BYTES: Final = 32 << 20
"""What calls move over one connection before it is released, where others wait for one."""

SMALL_SHARE_BYTES: Final = 4 << 20
"""The same for small calls. They share connections with small calls of other lanes, which are to wait for little."""

LATE: Final = 0.1
"""Seconds without a reply after which a lane serves one connection more, if it has requests to make."""

_POLL: Final = 0.001

_EXTRA_PAUSE: Final = 10.0
"""Seconds until another driver is hired to make things faster, after one has found no connection: the server may have
enough of them."""


class _Driver:
    """A task of a lane that serves connections. The lane knows it before the task begins, which may be at once."""

    __slots__ = ("is_extra", "task")

    def __init__(self, *, is_extra: bool) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_extra = is_extra
        """Whether it has no connection yet, and no call depends on its getting one: it would make them faster."""


class Lane(ABC, Generic[C, W]):
    """Calls of one kind to one server. Belongs to one event loop. The module describes it."""

    def __init__(
        self,
        pool: ConnectionPool[C],
        *,
        drivers: int = 1,
        spare_drivers: int = 0,
        couriers: Couriers | None = None,
        runs_alone: bool = True,
        repeats: bool = True,
        grace: float = GRACE,
        share_bytes: int = SHARE_BYTES,
    ) -> None:
        """`drivers`: how many connections are served at the same time, at most.

        `spare_drivers`: how many more are served where those get nothing done, although there are requests to make: the
        replies that they wait for are late. `couriers`: the threads that serve them; None: the event loop.
        `runs_alone`: whether a call that is alone runs in its own task; otherwise a driver runs it as well.
        `repeats`: whether requests may be made twice without harm; otherwise those that were sent over a connection
        which was closed here end their calls, which are then tried again by the rules. `grace`: seconds that a payload
        has to be let go of before the connection is closed. `share_bytes`: what is moved over one connection before it
        is released, where others wait for one.
        """
        self._process: Final = this_process()
        self._what: Final = f"the connector of {pool.store}"
        self._pool: Final = pool
        self._limit: Final = drivers
        self._last_limit: Final = drivers + spare_drivers
        self._no_extra_until = 0.0
        """When the loop's clock says so, a driver that no call depends on may be hired again."""
        self._couriers: Final = couriers
        self._queue: Final[CallQueue[W]] = CallQueue()
        self._drivers: Final[set[_Driver]] = set()
        self._arriving: Final[set[_Driver]] = set()
        """Drivers that have no connection yet."""
        self._runs_alone: Final = runs_alone
        self._repeats: Final = repeats
        self._grace: Final = grace
        self._share_bytes: Final = share_bytes
        self._queue_of_one: Final[CallQueue[W]] = CallQueue()
        self._on_more: Final = self._more
        self._serves_alone = False
        """Whether a call runs in its own task."""
        self._is_occupied = False
        """The same, and whether one has just ended that has not waited for anything."""
        self._closed_here: Final[set[C]] = set()
        self._finished: Final[deque[W]] = deque()
        self._is_finishing = False
        """Whether the loop will soon finish what a thread has finished."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._serving: Final[set[Pipeline[C, W]]] = set()
        self._replies = 0
        """Requests whose replies were taken by pipelines that serve no more."""

    @abstractmethod
    def pipeline(self, queue: CallQueue[W], finish: Callable[[W], None], *, in_thread: bool) -> Pipeline[C, W]:
        """Returns a pipeline that serves the calls of `queue`. See `Pipeline` for the arguments."""

    @abstractmethod
    async def serve_one_request(self, connection: C, call: W) -> None:
        """Makes the next request of `call`, and takes its reply: the short way of a pipeline for a call that is alone.

        It is over whatever happens here, or has further requests.
        """

    async def connect(self) -> None:
        """Opens a connection, where none is open. Raises what connecting raises."""
        async with self._pool.acquired():
            pass

    def gives_way(self, moved: int) -> bool:
        """Whether a connection that has moved so many bytes is to be released: others wait for one of the pool."""
        return moved >= self._share_bytes and self._pool.waiting > 0

    @property
    def is_idle(self) -> bool:
        """Whether no call is served, and none waits for that."""
        return not (self._serves_alone or self._drivers)

    def run(self, call: W) -> Awaitable[None]:
        """Makes the requests of `call`. When it has ended, however it ended, nothing touches its buffers any more.

        Raises:
            ForkedProcessError, what connecting raises, the store's error where the connection was lost, and what the
            call failed with.
        """
        self._process.check(self._what)
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if self._may_run_alone():
            return self._run_alone(call)
        return self._run_together(call)

    # ---------------------------------------------------------------------------------------------- in its own task

    def _may_run_alone(self) -> bool:
        return self._runs_alone and not (self._is_occupied or self._drivers)

    async def _run_alone(self, call: W) -> None:
        self._serves_alone = self._is_occupied = True
        has_waited = True
        try:
            has_waited = await self._run_in_own_task(call, self._queue_of_one)
        finally:
            self._serves_alone = False
            if has_waited:
                self._is_occupied = False
            else:  # the answer was there at once. Calls of the same turn would each cost what serves all of them.
                asyncio.get_running_loop().call_soon(self._leave)
        if call.failure is not None:
            call.raise_failure()

    def _leave(self) -> None:
        self._is_occupied = False

    async def run_apart(self, call: W) -> None:
        """`run` for a call that may wait for something else, with a reply on the wire. So it shares nothing."""
        await self._run_in_own_task(call, CallQueue())
        if call.failure is not None:
            call.raise_failure()

    async def _run_in_own_task(self, call: W, queue: CallQueue[W]) -> bool:
        """Returns whether it has waited for a connection or a reply, as far as that is known."""
        if call.unbegun() == 1:
            async with self._pool.acquired() as connection:
                before = connection.stream.waits
                await self.serve_one_request(connection, call)
                has_waited = not before or before != connection.stream.waits
            if call.is_ended or not call.unbegun():
                return has_waited
        call.more = queue.add_begun
        pipeline = self.pipeline(queue, _nobody_waits, in_thread=False)
        queue.add(call)
        try:
            while not call.is_ended and call.unbegun():
                async with self._pool.acquired() as connection:
                    await pipeline.serve(connection)
        finally:
            call.more = None
            call.end()
            call.outstanding = 0  # the connection was closed, or has told everything
            queue.take_all()
        return True

    # ---------------------------------------------------------------------------------------------------- together

    async def _run_together(self, call: W) -> None:
        if not call.unbegun():
            return
        assert self._loop is not None  # noqa: S101  # `run` has set it
        call.done = self._loop.create_future()
        call.more = self._on_more
        self._queue.add(call)
        try:
            self._hire()
            if self._watch is None and self._last_limit > self._limit:
                self._watch_drivers()
            await call.done
        except BaseException as ended:
            call.end()
            if isinstance(ended, GeneratorExit):  # the loop was closed: nothing can be awaited any more
                self._interrupt(call)
                _wait_in_thread(call)
            else:
                await self._withdraw(call)
            raise
        finally:
            call.more = None
        if call.failure is not None:
            call.raise_failure()

    async def _withdraw(self, call: W) -> None:
        """Waits until nothing touches the buffers of a call that has ended."""
        assert self._loop is not None  # noqa: S101  # it was queued
        call.recall()
        ends = self._loop.time() + self._grace
        while call.is_touched:
            # Another future each time: one connection may have let go of the call, while another one touches it still.
            call.done = self._loop.create_future()
            left = ends - self._loop.time()
            if left <= 0:
                self._interrupt(call)
                left = GRACE
            await wait_uncancelled(call.done, left)

    def _interrupt(self, call: W) -> None:
        self._closed_here.update(call.interrupt())  # type: ignore[arg-type]  # its connections are of this pool

    def _more(self, call: W) -> None:
        self._queue.add_begun(call)
        if self._couriers is None:
            self._hire()
        elif len(self._drivers) < self._limit:  # the thread goes on with it itself, perhaps with another one beside it
            assert self._loop is not None  # noqa: S101  # `run` has set it
            try:
                self._loop.call_soon_threadsafe(self._hire_for_the_rest)
            except RuntimeError:
                pass  # the loop was closed

    def _watch_drivers(self) -> None:
        """Hires a spare driver in a while, if nothing gets done until then."""
        assert self._loop is not None  # noqa: S101  # a call was queued
        self._watch = self._loop.call_later(LATE, self._look_for_lateness, self._count_replies())

    def _count_replies(self) -> int:
        return self._replies + sum(pipeline.replies for pipeline in self._serving)

    def _look_for_lateness(self, before: int) -> None:
        self._watch = None
        if self._drivers and self._queue.has_requests():
            if self._count_replies() == before:
                self._hire(self._last_limit)
            self._watch_drivers()

    def _hire(self, limit: int = 0, *, is_extra: bool = False) -> None:
        """Hires a driver, unless there are enough, or one is arriving on which calls may depend."""
        awaits = self._arriving if is_extra else [driver for driver in self._arriving if not driver.is_extra]
        if not awaits and len(self._drivers) < (limit or self._limit):
            driver = _Driver(is_extra=is_extra)
            # Counted before its task begins: that of an eager factory may be over when it is returned.
            self._drivers.add(driver)
            self._arriving.add(driver)
            job = self._drive(driver)
            try:
                # In a context of its own: it outlives the call that it is hired for, and works for others.
                driver.task = asyncio.get_running_loop().create_task(job, context=Context())
            except BaseException:  # from a task factory of somebody else
                self._let_go(driver)
                job.close()
                raise
            driver.task.add_done_callback(partial(self._ended, driver))

    def _hire_for_the_rest(self) -> None:
        assert self._loop is not None  # noqa: S101  # a call was queued
        if self._queue.has_several_requests() and self._loop.time() >= self._no_extra_until:
            self._hire(is_extra=True)

    async def _drive(self, driver: _Driver) -> None:
        """What a driver does. It is counted as arriving."""
        while await self._serve_one(driver) and self._queue.has_requests():
            self._arriving.add(driver)
        self._let_go(driver)  # from here on, a call that is made hires another one
        if driver.is_extra and not self._drivers and self._queue.has_requests():
            self._hire()  # it has found no connection, and the others have gone meanwhile

    def _let_go(self, driver: _Driver) -> None:
        self._drivers.discard(driver)
        self._arriving.discard(driver)

    def _ended(self, driver: _Driver, task: asyncio.Task[None]) -> None:
        self._let_go(driver)
        if task.cancelled():  # perhaps before it began: the connector or the event loop ends
            error: BaseException | None = None if self._drivers else self._closed_error()
        else:
            error = task.exception()
        if isinstance(error, Exception):
            self._fail(self._queue.take_all(), error)

    async def _serve_one(self, driver: _Driver) -> bool:
        """Serves one connection. What fails ends the calls that it concerns. Returns whether there may be another."""
        couriers = self._couriers
        finish = self._finish if couriers is None else self._finish_from_thread
        pipeline = self.pipeline(self._queue, finish, in_thread=couriers is not None)
        connection: C | None = None
        try:
            try:
                async with self._pool.acquired() as connection:
                    self._arriving.discard(driver)
                    driver.is_extra = False
                    self._serving.add(pipeline)
                    if self._limit > 1:
                        asyncio.get_running_loop().call_soon(self._hire_for_the_rest)
                    if couriers is not None:
                        await couriers.run(connection, _ending_leases(pipeline, connection))
                    else:
                        await pipeline.serve(connection)
            except Exception as error:
                # No connection is to be had, or no thread could be started.
                is_helpless = connection is None or (isinstance(error, RuntimeError) and not pipeline.sent)
                if is_helpless:
                    self._no_extra_until = asyncio.get_running_loop().time() + _EXTRA_PAUSE
                if driver.is_extra or (is_helpless and self._serving - {pipeline}):
                    return False  # the other drivers go on, with all the calls
                self._failed(pipeline, None if is_helpless else connection, error)
            except BaseException:
                self._lost(pipeline, self._closed_error())
                raise
        finally:
            self._arriving.discard(driver)
            if connection is not None:
                self._serving.discard(pipeline)
                self._replies += pipeline.replies
                self._closed_here.discard(connection)
                for call in pipeline.last:
                    self._finish(call)
        return True

    def _failed(self, pipeline: Pipeline[C, W], connection: C | None, error: Exception) -> None:
        if connection is None:
            self._fail(self._queue.take_all(), error)
            return
        if connection not in self._closed_here:
            if recalled := list({sent.call for sent in pipeline.sent if sent.call.is_recalled}):
                self._fail(recalled, ReleasedObjectError("a transfer"))  # their owner has closed the connection
            elif isinstance(error.__cause__, StreamClosedError) or pipeline.current is None:
                self._lost(pipeline, error)
            else:
                self._fail([pipeline.current], error)
        if not self._repeats:
            reason = "the connection was closed because of another call"
            self._lost(pipeline, StoreUnavailableError(self._pool.store, reason))
            return
        # Without a limit: what is sent again goes first, behind one call less each time.
        pipeline.requeue_all()

    def _lost(self, pipeline: Pipeline[C, W], error: Exception) -> None:
        self._fail(list({sent.call for sent in pipeline.sent}), error)
        pipeline.requeue_all()

    def _fail(self, calls: Sequence[W], error: Exception) -> None:
        if isinstance(error, StoreError):
            error.incident = Incident()
        for call in calls:
            call.fail(twin(error))
            if call.is_over:
                self._finish(call)

    # ------------------------------------------------------------------------------------------------------- ends

    def _finish(self, call: W) -> None:
        """Nothing more happens for a call: its task goes on."""
        done = call.done
        if done is not None and not done.done():
            done.set_result(None)

    def _finish_from_thread(self, call: W) -> None:
        self._finished.append(call)
        if not self._is_finishing:  # looked at after the call was added: `_finish_all` does it the other way round
            self._is_finishing = True
            assert self._loop is not None  # noqa: S101  # it was queued there
            try:
                self._loop.call_soon_threadsafe(self._finish_all)
            except RuntimeError:
                pass  # the loop was closed: nobody waits

    def _finish_all(self) -> None:
        self._is_finishing = False
        while self._finished:
            self._finish(self._finished.popleft())

    async def close(self) -> None:
        """Ends the drivers, and waits for them. The pool is closed already."""
        if self._watch is not None:
            self._watch.cancel()
        tasks = [driver.task for driver in self._drivers if driver.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _closed_error(self) -> ConnectorClosedError:
        return ConnectorClosedError(self._what)


async def _ending_leases(pipeline: Pipeline[C, W], connection: C) -> None:
    """Serves a connection, in the context of a thread, and leaves no leases of its calls behind."""
    try:
        await pipeline.serve(connection)
    finally:
        work_under(())


def _nobody_waits(call: CombinedCall) -> None:
    """For a call that runs in its own task."""


def _wait_in_thread(call: CombinedCall) -> None:
    ends = time.monotonic() + WAIT_SECONDS
    while call.is_touched and time.monotonic() < ends:
        time.sleep(_POLL)
