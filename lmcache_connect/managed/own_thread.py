"""`OwnThread`: single blocking calls of which the event loop has no part, as long as all is ordinary.

To hand a call to the event loop and its answer back costs more than a small call: threads wake one another. So a caller
that blocks its thread anyway sends its request and reads the reply there, over a connection that only threads use.

That is so where the connector offers it (`OwnThreadCalls`), and where the event loop would have nothing to decide: no
failures that the circuit breaker knows of, no bypass, spans or hot cache, bytes that are free at once, a connection at
hand. All other calls go over the loop. A call that turns out not to be plain, or fails, goes on there as well: as one
operation, with the deadline that is left, whose first attempt was this one (`FirstAttempt`). So the loop alone judges a
failure, tells the breaker, retries, and counts it.

What threads and the loop share:

* admission, deadlines and closing: `InFlight` and `ThreadRunning`;
* the byte budget: `ByteBudget.take_in_thread`;
* counters: those of threads are counted apart, under a lock that the loop does not take (`StoreMetrics.in_threads`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from time import perf_counter
from typing import Any, Final

from ..contract import CallerMemory, ChunkSize, ConnectorContext, NotInThisThreadError, OwnThreadCalls
from ..errors import LMCacheConnectError, SyncTimeoutError
from ..keys import Key, key_string
from ..lease import Use, leases, under
from ..loop import call_soon
from ..memory import MemoryObj, check_apart
from ..observability import OperationStatistics
from .arguments import size_of_borrowed
from .first_attempt import FirstAttempt
from .load import ONE_KEY, Load, load_of_get, load_of_put, load_of_transfer
from .operation_runner import OperationRunner
from .operations import EXISTS, GET, GET_INTO, PUT, PUT_FROM, Operation, Transferred
from .running import ThreadRunning

NOT_HERE: Final[Any] = object()
"""The result of a call that was not begun: it is to go over the event loop."""


class OwnThread:
    """Makes single calls of a connector in the threads of their callers. The module describes it.

    Each method returns `NOT_HERE`, or what the connector's method returns. It raises what the connector's method and
    `SyncConnector` raise.
    """

    def __init__(
        self,
        calls: OwnThreadCalls,
        runner: OperationRunner,
        context: ConnectorContext,
        chunk_size: ChunkSize,
        *,
        is_current: Callable[[OwnThread], bool],
        forget: Callable[[Sequence[Key]], None],
        go_on: Mapping[str, Callable[..., Coroutine[Any, Any, Any]]],
    ) -> None:
        """`is_current` says whether the connector was not recreated. `forget` drops keys from the memory's hot cache.

        `go_on` has, by the operation's name, what goes on with it on the event loop, from a `FirstAttempt`.
        """
        self._calls: Final = calls
        self._runner: Final = runner
        self._settings: Final = context.settings
        self._owner: Final = context.owner
        self._loop: Final = context.owner.loop
        self._memory: Final = context.local_cpu_backend
        self._chunk_size: Final = chunk_size
        self._is_current: Final = is_current
        self._forget: Final = forget
        self._go_on: Final = go_on

    def exists(self, key: Key, timeout: float) -> Any:
        """See `ManagedConnector.exists`."""
        if not self._is_plain():
            return NOT_HERE
        key_string(key)
        return self._run(EXISTS, ONE_KEY, timeout, 0, self._calls.exists, (key,))

    def get(self, key: Key, timeout: float) -> Any:
        """See `ManagedConnector.get`."""
        if not self._is_plain():
            return NOT_HERE
        key_string(key)
        load = load_of_get(1, self._chunk_size.for_deadline, self._chunk_size.for_budget)
        return self._run(GET, load, timeout, None, self._calls.get, (key,))

    def put(self, key: Key, memory_obj: MemoryObj, timeout: float) -> Any:
        """See `ManagedConnector.put`."""
        if not self._is_plain():
            return NOT_HERE
        key_string(key)
        nbytes = size_of_borrowed(memory_obj, self._memory)
        self._forget((key,))
        memory_obj.ref_count_up()
        try:
            return self._run(PUT, load_of_put(1, nbytes), timeout, nbytes, self._calls.put, (key, memory_obj))
        finally:
            memory_obj.ref_count_down()

    def get_into(self, memory: CallerMemory, timeout: float) -> Any:
        """See `ManagedConnector.get_into`, for one key. Returns a `Transferred`."""
        if not self._is_plain():
            return NOT_HERE
        key_string(memory.keys[0])
        check_apart(memory.regions)
        load = load_of_transfer(1, memory.nbytes)
        return self._run(GET_INTO, load, timeout, memory.nbytes, self._got_into, (memory,))

    def put_from(self, memory: CallerMemory, timeout: float) -> Any:
        """See `ManagedConnector.put_from`, for one key. Returns a `Transferred`."""
        if not self._is_plain():
            return NOT_HERE
        key_string(memory.keys[0])
        self._forget(memory.keys)
        load = load_of_transfer(1, memory.nbytes)
        return self._run(PUT_FROM, load, timeout, memory.nbytes, self._stored_from, (memory,))

    async def _got_into(self, connection: Any, memory: CallerMemory) -> Transferred:
        return _transferred(memory, await self._calls.get_into(connection, memory))

    async def _stored_from(self, connection: Any, memory: CallerMemory) -> Transferred:
        return _transferred(memory, await self._calls.put_from(connection, memory))

    def _is_plain(self) -> bool:
        return self._runner.is_plain and self._loop.is_running() and not self._owner.is_current()

    def _run(
        self,
        operation: Operation[Any],
        load: Load,
        timeout: float,
        nbytes: int | None,
        call: Callable[..., Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
    ) -> Any:
        seconds = load.seconds(self._settings)
        deadline = time.monotonic() + min(seconds, timeout)
        first = args[0]
        key = first.keys[0] if isinstance(first, CallerMemory) else first
        connection = self._calls.take(key, nbytes, deadline)
        if connection is None:
            return NOT_HERE
        began = perf_counter()
        runner = self._runner
        running = ThreadRunning(connection.close, deadline)
        stats = runner.metrics.in_threads(operation.name)
        failure: Exception | None = None
        result = NOT_HERE
        is_counted = has_asked = is_begun = is_over = False
        moved = 0
        try:
            runner.in_flight.begin_in_thread(running)
            with runner.metrics.counting:
                is_counted = True
                stats.in_flight += 1
            # Looked at when those who close or recreate the connector see the operation.
            if runner.is_closed or not self._is_current(self):
                return NOT_HERE
            has_asked = True
            if not runner.budget.take_in_thread(load.budget_bytes):
                return NOT_HERE
            is_begun = is_over = True
            result = self._stepped(running, call(connection, *args))
        except LMCacheConnectError as error:
            failure = error.with_traceback(None)  # whose frames hold views of buffers
            running.look_for_lateness()
            is_over = running.is_late and timeout < seconds
        except NotInThisThreadError:  # the event loop makes the call again, unless the time is up
            running.look_for_lateness()
            is_over = is_begun and running.is_late and timeout < seconds
        except Exception:  # the event loop makes the call again, and tells what is wrong
            is_over = False
        except BaseException:
            connection.close()
            raise
        finally:
            running.let_go()
            self._calls.put_back(connection)
            if has_asked and runner.budget.release_in_thread(load.budget_bytes):
                call_soon(self._loop, runner.budget.grant)
            if is_counted:
                with runner.metrics.counting:
                    stats.in_flight -= 1
                    if is_over:
                        moved = _count(stats, operation, load, result, perf_counter() - began)
            if result is not NOT_HERE or not is_begun or is_over:
                runner.in_flight.end_in_thread(running)
        if result is NOT_HERE:
            if is_over:
                raise SyncTimeoutError(operation.name, timeout)
            return self._finished(operation, args, timeout, FirstAttempt(began, failure, running), running)
        runner.has_succeeded = True
        if operation is GET and result is not None:
            self._chunk_size.observe_in_thread(result.get_size(), self._loop)
        if runner.breaker.failures or not runner.conditions.is_clear:  # there were failures a while ago
            call_soon(self._loop, runner.succeeded_elsewhere, operation, moved)
        return result

    def _stepped(self, running: ThreadRunning, call: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine to its end, and returns its result."""
        try:
            if self._memory.lease is None and not leases():
                call.send(None)
            else:
                with under(self._memory.lease):
                    use = Use(running.interrupt)
                    try:
                        call.send(None)
                    finally:
                        use.end()
        except StopIteration as end:
            return end.value
        finally:
            call.close()
        raise NotInThisThreadError  # it waited for something

    def _finished(
        self,
        operation: Operation[Any],
        args: tuple[Any, ...],
        timeout: float,
        first: FirstAttempt,
        running: ThreadRunning,
    ) -> Any:
        """Goes on with an operation on the event loop, and returns its result."""
        left = max(0.0, timeout - (perf_counter() - first.began))
        try:
            return self._owner.run_sync(operation.name, left, self._go_on[operation.name], *args, first)
        except SyncTimeoutError as late:
            late.args, late.seconds = SyncTimeoutError(operation.name, timeout).args, timeout
            raise
        finally:
            self._runner.in_flight.end_in_thread(running)  # where the loop has not taken over from it


def _transferred(memory: CallerMemory, flag: bool) -> Transferred:
    return Transferred([flag], memory.nbytes if flag else 0)


def _count(stats: OperationStatistics, operation: Operation[Any], load: Load, result: Any, seconds: float) -> int:
    """Counts an operation that is over, as the event loop does it. Returns how many bytes it has moved."""
    stats.calls += 1
    stats.items += load.items
    stats.queue.observe(0.0)
    stats.wire.observe(seconds)
    if result is NOT_HERE:
        return 0
    before = stats.bytes
    stats.bytes += load.sent_bytes
    absent = 0 if operation.count is None else operation.count(stats, result)
    if absent:
        stats.misses[operation.absence] += absent
    return stats.bytes - before
