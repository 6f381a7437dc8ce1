"""`CombinedCall`: what one call wants of a lane, which does the work of many calls together."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ..errors import LMCacheConnectError, ReleasedObjectError
from ..lease import Use, check_leases, leases, work_under
from ..transport import Connection


class CombinedCall(ABC):
    """The requests of one call, and what became of them.

    The call's task waits for `done`, on the event loop. A pipeline makes the requests and takes the replies, on the
    loop or in a thread. While it moves bytes of the call's buffers, the call is *touched*. `begin` and `let_go` are the
    two ends of that. A call that has ended is not touched any more: its requests are not made, its replies are dropped.

    Attributes:
        nbytes: bytes that it probably moves.
        outstanding: requests that were sent, and whose replies were not taken.
        is_ended: whether nobody wants its results any more, because it was cancelled, or has failed.
        failure: why it has failed.
        done: is set on the event loop when nothing more happens for it. None for a call that runs in its own task.
        more: is called with the call when requests have come up after it was queued.
        rank: where it stands in its queue. Belongs to the queue.
    """

    __slots__ = (
        "_is_guest",
        "_leases",
        "_touching",
        "_uses",
        "done",
        "failure",
        "is_ended",
        "more",
        "nbytes",
        "outstanding",
        "rank",
    )

    def __init__(self, nbytes: int = 0) -> None:
        self.nbytes = nbytes
        self.outstanding = 0
        self.is_ended = False
        self.failure: Exception | None = None
        self.done: asyncio.Future[None] | None = None
        self.more: Callable[[Any], None] | None = None
        self.rank = 0
        self._leases = leases()
        self._is_guest = False
        """Whether it is served in the context of another task than its own."""
        self._touching: list[Connection] = []
        self._uses: dict[Connection, Use] | None = {} if self._leases else None

    @abstractmethod
    def unbegun(self) -> int:
        """Returns the number of requests that can be made now and were not."""

    @abstractmethod
    def next_request(self) -> tuple[Any, int]:
        """Takes the next request. Returns it, and how many bytes of payload it or its reply probably has."""

    def requeue(self, request: Any) -> None:
        """Has a request made again that was sent over a connection which was closed before the reply came.

        For lanes that may make requests twice (`repeats`).
        """
        raise RuntimeError(f"a request of a {type(self).__name__} must not be made twice")

    def is_amid(self) -> bool:
        """Whether a chunk was begun, and has further requests: it is better finished than another one begun."""
        return False

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens for it."""
        return not self.outstanding and not self._touching and (self.is_ended or not self.unbegun())

    def when_over(self) -> asyncio.Future[None] | None:
        """Returns what is done when it may be over, for one that its task does not wait for any more. None: it is.

        On the event loop. Where it is not over then, it is to be asked for again.
        """
        if self.is_over:
            return None
        self.done = asyncio.get_running_loop().create_future()
        return None if self.is_over else self.done  # a thread may have found it over before that was to be told to

    @property
    def is_recalled(self) -> bool:
        """Whether the owner of its memory has recalled that."""
        return any(lease.is_recalled for lease in self._leases)

    def fail(self, error: Exception) -> None:
        """Ends the call with `error`, unless it has ended."""
        if not self.is_ended:
            self.failure = error.with_traceback(None)  # whose frames may hold views of buffers
            self.end()

    def end(self) -> None:
        """Nobody wants its results any more."""
        self.is_ended = True

    # ------------------------------------------------------------------------------------------------- touching

    def begin(self, connection: Connection, *, in_thread: bool) -> bool:
        """Begins to touch its buffers over `connection`. Returns False where it has ended: they must not be touched.

        What runs in this context then works under the leases of the call.
        """
        # The call's task sets `is_ended`, and then looks whether the call is touched. Here it is the other way round.
        self._touching.append(connection)
        if not self.is_ended:
            try:
                self._is_guest = leases() is not self._leases
                work_under(self._leases)
                if self._uses is not None:
                    check_leases("a transfer")
                    if in_thread:
                        self._uses[connection] = Use(connection.close)
            except ReleasedObjectError as error:  # the owner of the memory has recalled it
                self._leave_leases()
                self.fail(error)
            else:
                return True
        self._touching.remove(connection)
        return False

    def let_go(self, connection: Connection) -> None:
        """Ends what `begin` has begun. Idempotent."""
        if connection not in self._touching:
            return
        self._touching.remove(connection)
        if self._uses is not None:
            if connection in self._uses:
                self._uses.pop(connection).end()
            self._leave_leases()

    def _leave_leases(self) -> None:
        if self._is_guest:  # what the driver then waits for concerns others
            work_under(())

    @property
    def is_touched(self) -> bool:
        """Whether its buffers are touched now."""
        return bool(self._touching)

    def recall(self) -> None:
        """Has the payload that is being sent for it copied, so that it is let go of. A thread does that soon."""
        for connection in [*self._touching]:
            connection.stream.recall()

    def interrupt(self) -> list[Connection]:
        """Closes the connections over which it is touched, and returns them. It is let go of soon. From any thread."""
        connections = [*self._touching]
        for connection in connections:
            connection.close()
        return connections

    def raise_failure(self) -> None:
        """Raises the error that has ended it, if there is one, and forgets it."""
        failure, self.failure = self.failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # a frame that holds the error whose traceback holds the frame is freed late


class CallPayload:
    """The payload of a call, while a connection sends it."""

    __slots__ = ("_call", "_connection", "_finish")

    def __init__(self, call: CombinedCall, connection: Connection, finish: Callable[[Any], None]) -> None:
        """`finish` is told when the call is let go of early."""
        self._call = call
        self._connection = connection
        self._finish = finish

    def wants_it_back(self) -> bool:
        """See `PayloadOwner`."""
        return self._call.is_ended

    def has_it_back(self) -> None:
        """See `PayloadOwner`."""
        self._call.let_go(self._connection)
        self._finish(self._call)


def twin(error: Exception) -> Exception:
    """Returns an error of its own, that says the same, for one of several calls that failed for one reason."""
    if not isinstance(error, LMCacheConnectError):
        return error
    made = type(error).__new__(type(error), *error.args)
    made.args = error.args  # an `OSError` takes them in its `__init__`
    made.__dict__.update(error.__dict__)
    made.__cause__ = error.__cause__
    return made
