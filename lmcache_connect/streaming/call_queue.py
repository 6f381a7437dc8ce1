"""`CallQueue`: the calls of a lane that have requests to make, and whose turn it is."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final, Generic, TypeVar

from .combined_call import CombinedCall

W = TypeVar("W", bound=CombinedCall)

TURN_BYTES: Final = 4 << 20
"""What a call may ask for before it is the next one's turn."""

BEGUN_BYTES: Final = 8 << 20
"""What begun chunks may ask for before it is a new chunk's turn."""

BEGUN_CALLS: Final = 4
"""How many calls have begun chunks, from which on no further chunk is begun. Each of them holds memory."""

_OUT, _FRESH, _BEGUN = range(3)


class CallQueue(Generic[W]):
    """Calls in the order in which they make their requests.

    They come in order, with two exceptions, so that no call waits behind more than a few megabytes for its turn: one
    that has asked for `TURN_BYTES` goes to the end, and a chunk that was begun is finished before others are begun,
    because it holds memory. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: deque[W] = deque()
        self._begun: deque[W] = deque()
        self._turn = 0
        """Bytes that the first call of `_fresh` has asked for in its turn."""
        self._since_fresh = 0
        """Bytes that begun chunks have asked for since something else was."""

    def add(self, call: W) -> None:
        """Adds a call, which begins with what stands behind the others."""
        with self._lock:
            call.rank = _FRESH
            self._fresh.append(call)

    def add_begun(self, call: W) -> None:
        """Adds a call that has further requests, for a chunk that was begun. It may stand in the queue already."""
        with self._lock:
            self._add_begun(call)

    def has_requests(self) -> bool:
        """Whether there is a request to make."""
        with self._lock:
            return self._first() is not None

    def has_several_requests(self) -> bool:
        """Whether there are two requests to make, or more."""
        with self._lock:
            left = 0
            for calls in (self._begun, self._fresh):
                for call in calls:
                    left += 0 if call.is_ended else call.unbegun()
                    if left > 1:
                        return True
            return False

    def next_request(self) -> tuple[W, Any, int] | None:
        """Takes the next request. Returns its call, itself, and how many bytes it or its reply probably has.

        It counts as outstanding from now on, until `answered` or `put_back`. Otherwise a thread that takes the reply to
        another request of the call could find the call over. The request is None where the call has failed, because it
        could not make it.
        """
        with self._lock:
            call = self._first()
            if call is None:
                return None
            try:
                request, nbytes = call.next_request()
            except Exception as error:
                call.fail(error)
                return call, None, 0
            call.outstanding += 1
            if call.rank == _BEGUN:
                self._since_fresh += nbytes
                if not call.is_amid():
                    self._begun.remove(call)
                    call.rank = _OUT
                    if call.unbegun():  # chunks that were not begun
                        call.rank = _FRESH
                        self._fresh.append(call)
                return call, request, nbytes
            self._since_fresh = 0
            self._turn += nbytes
            if call.is_amid():
                self._leave_fresh(call)
                call.rank = _BEGUN
                self._begun.append(call)
            elif not call.unbegun():
                self._leave_fresh(call)
                call.rank = _OUT
            elif self._turn >= TURN_BYTES:
                self._turn = 0
                self._fresh.rotate(-1)
            return call, request, nbytes

    def count(self, call: W) -> None:
        """Counts one more request of `call` as outstanding, which did not stand in the queue."""
        with self._lock:
            call.outstanding += 1

    def answered(self, call: W) -> bool:
        """Told that a request of `call` is not outstanding any more. Returns whether the call is over."""
        with self._lock:
            call.outstanding -= 1
            return call.is_over

    def put_back(self, call: W, request: Any) -> bool:
        """Has a request made again that was sent and not answered, unless its call has ended. It goes first.

        Of several requests, the last that was sent is put back first. Returns whether the call is over.
        """
        with self._lock:
            call.outstanding -= 1
            if not call.is_ended:
                call.requeue(request)
                if call.unbegun():
                    self._add_begun(call, is_first=True)
            return call.is_over

    def take_all(self) -> list[W]:
        """Empties the queue. Returns the calls that stood in it."""
        with self._lock:
            calls = [*self._begun, *self._fresh]
            self._begun.clear()
            self._fresh.clear()
            self._turn = 0
            for call in calls:
                call.rank = _OUT
            return [call for call in calls if not call.is_ended]

    def _add_begun(self, call: W, *, is_first: bool = False) -> None:
        if call.rank != _BEGUN:
            if call.rank == _FRESH:
                self._leave_fresh(call)
            call.rank = _BEGUN
            if is_first:
                self._begun.appendleft(call)
            else:
                self._begun.append(call)

    def _leave_fresh(self, call: W) -> None:
        if self._fresh[0] is call:
            self._fresh.popleft()
            self._turn = 0
        else:
            self._fresh.remove(call)

    def _first(self) -> W | None:
        begun, fresh = self._begun, self._fresh
        while begun and (begun[0].is_ended or not begun[0].unbegun()):  # it has ended meanwhile
            begun.popleft().rank = _OUT
        while fresh and (fresh[0].is_ended or not fresh[0].unbegun()):
            fresh.popleft().rank = _OUT
            self._turn = 0
        if begun and not (fresh and self._since_fresh >= BEGUN_BYTES and len(begun) < BEGUN_CALLS):
            return begun[0]
        return fresh[0] if fresh else None
