"""`Pipeline`: makes the requests of many calls over one connection, before the replies to earlier ones have come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ..transport import Connection
from .call_queue import CallQueue
from .combined_call import CombinedCall

C = TypeVar("C", bound=Connection)
W = TypeVar("W", bound=CombinedCall)


class Sent(NamedTuple):
    """A request that was sent, and whose replies were not taken: its call, itself, and the bytes that it moves."""

    call: Any
    request: Any
    nbytes: int


class Pipeline(ABC, Generic[C, W]):
    """Serves the calls of a queue over one connection, on the event loop or in a thread.

    What is wrong with one call ends that call. What is wrong with the connection is raised. Then `sent` says whom it
    concerns, and `current` whose fault it is, where it is one call's.
    """

    def __init__(
        self, queue: CallQueue[W], finish: Callable[[W], None], gives_way: Callable[[int], bool], *, in_thread: bool
    ) -> None:
        """`finish` is told of each call for which nothing more happens, except for `last`.

        `gives_way`: whether a connection that has moved so many bytes is to be released, because others want one.
        """
        self.queue: Final = queue
        self.finish: Final = finish
        self.gives_way: Final = gives_way
        self.in_thread: Final = in_thread
        self.sent: Final[deque[Sent]] = deque()
        self.current: W | None = None
        """The call whose request is being sent, or whose reply is being taken. None: what happens concerns all."""
        self.replies = 0
        """Requests whose replies were taken."""
        self.last: Final[list[W]] = []
        """Calls for which nothing more happens, nor for any other. They are finished when the connection was released:
        what their tasks do next then finds it free."""

    @abstractmethod
    async def serve(self, connection: C) -> None:
        """Makes requests and takes their replies until there are none, or others should have the connection.

        In a thread it may await nothing but the connection's stream. When it returns, no reply is outstanding, or the
        connection was closed, and its requests were queued again.
        """

    def next_request(self) -> tuple[W, Any, int] | None:
        """Takes the next request of the queue: its call, itself, and how many bytes it or its reply probably has.

        A call whose request cannot be made fails with the reason.
        """
        while (item := self.queue.next_request()) is not None:
            call, request, _ = item
            if request is not None:
                return item
            if call.is_over:
                self.finish(call)
        return None

    def taken(self) -> None:
        """The replies to the first request of `sent` were taken."""
        self.current = None
        self.replies += 1
        call = self.sent.popleft().call
        if not self.queue.answered(call):
            return
        if self.sent or self.queue.has_requests():
            self.finish(call)
        else:
            self.last.append(call)

    def requeue_all(self) -> None:
        """Has everything made again, over another connection, that was sent and not answered."""
        while self.sent:
            call, request, _ = self.sent.pop()
            if self.queue.put_back(call, request):
                self.finish(call)
