"""In which order the calls of a lane make their requests, and what counts as under way."""

from __future__ import annotations

from typing import Any

from lmcache_connect.lease import Lease, under
from lmcache_connect.streaming import CallQueue, CombinedCall
from lmcache_connect.streaming.call_queue import BEGUN_BYTES, BEGUN_CALLS, TURN_BYTES

from .connections import FakeConnection

MIB = 1 << 20


class Asking(CombinedCall):
    """Asks for its parts, in order. A part is the bytes of each of a chunk's requests."""

    def __init__(self, name: str, *parts: int | list[int]) -> None:
        super().__init__()
        self.name = name
        self.parts = [*parts]
        self.begun: list[int] = []

    def unbegun(self) -> int:
        return len(self.parts) + len(self.begun)

    def is_amid(self) -> bool:
        return bool(self.begun)

    def next_request(self) -> tuple[Any, int]:
        if self.begun:
            return self.name, self.begun.pop(0)
        part = self.parts.pop(0)
        if isinstance(part, int):
            return self.name, part
        self.begun = part[1:]
        return self.name, part[0]

    def requeue(self, request: Any) -> None:
        self.parts.insert(0, 0)


def queue_of(*calls: Asking) -> CallQueue[Asking]:
    queue: CallQueue[Asking] = CallQueue()
    for call in calls:
        queue.add(call)
    return queue


def order(queue: CallQueue[Asking], limit: int = 1000) -> str:
    """The names of the calls that make the next requests."""
    names = ""
    while len(names) < limit and (item := queue.next_request()) is not None:
        names += item[0].name
    return names


def test_calls_make_their_requests_in_the_order_in_which_they_came() -> None:
    queue = queue_of(Asking("a", 1, 1, 1), Asking("b", 1), Asking("c", 1, 1))
    assert queue.has_requests()
    assert order(queue) == "aaabcc"
    assert not queue.has_requests()


def test_a_call_that_has_ended_makes_no_request() -> None:
    calls = [Asking(name, 1, 1) for name in "abc"]
    queue = queue_of(*calls)
    calls[0].end()
    calls[1].end()
    assert order(queue) == "cc"
    queue.add(calls[0])
    assert not queue.has_requests()
    assert queue.take_all() == []


def test_a_turn_ends_after_four_megabytes() -> None:
    assert TURN_BYTES == 4 * MIB
    queue = queue_of(Asking("a", *[MIB] * 10), Asking("b", *[2 * MIB] * 4), Asking("c", 1))
    assert order(queue) == "aaaabbcaaaabbaa"


def test_a_turn_begins_again_where_the_call_before_has_ended_amid_its_own() -> None:
    first = Asking("a", *[MIB] * 9)
    queue = queue_of(first, Asking("b", *[MIB] * 5), Asking("c", 1))
    assert order(queue, 3) == "aaa"
    first.end()
    assert order(queue) == "bbbbcb"


def test_a_turn_begins_again_where_the_queue_was_emptied() -> None:
    queue = queue_of(Asking("a", *[MIB] * 9))
    assert order(queue, 3) == "aaa"
    queue.take_all()
    queue.add(Asking("b", *[MIB] * 5))
    queue.add(Asking("c", 1))
    assert order(queue) == "bbbbcb"


def test_a_begun_chunk_is_finished_before_others_are_begun() -> None:
    queue = queue_of(Asking("a", [1, 1, 1], [1, 1]), Asking("b", [1, 1], 1), Asking("c", 1))
    assert order(queue) == "aaabbcaab"


def test_another_chunk_is_begun_after_eight_megabytes_of_begun_ones() -> None:
    assert BEGUN_BYTES == 8 * MIB
    queue = queue_of(Asking("a", [MIB] * 16), Asking("b", 1), Asking("c", 1))
    assert order(queue) == "a" * 9 + "b" + "a" * 7 + "c"


def test_at_most_four_calls_have_begun_chunks() -> None:
    assert BEGUN_CALLS == 4
    calls = [Asking(name, [4 * MIB] * 100) for name in "abcdef"]
    queue = queue_of(*calls)
    most = 0
    while queue.next_request() is not None:
        most = max(most, sum(call.is_amid() for call in calls))
    assert most == 4
    assert not any(call.unbegun() for call in calls)


def test_what_comes_up_for_a_begun_chunk_goes_before_the_calls_that_wait() -> None:
    late = Asking("l")
    queue = queue_of(Asking("a", 1, 1))
    late.begun = [1, 1]
    queue.add_begun(late)
    queue.add_begun(late)
    assert order(queue) == "llaa"


def test_a_call_that_waits_stands_in_the_queue_once_when_a_chunk_of_its_was_begun() -> None:
    call = Asking("a", 1)
    queue = queue_of(Asking("b", 1), call)
    call.begun = [1]
    queue.add_begun(call)
    assert order(queue) == "aba"
    assert queue.take_all() == []


def test_an_emptied_queue_has_no_requests_and_takes_its_calls_again() -> None:
    calls = [Asking(name, 1) for name in "ab"]
    queue = queue_of(*calls)
    assert queue.take_all() == calls
    assert not queue.has_requests()
    queue.add(calls[1])
    queue.add(calls[0])
    assert order(queue) == "ba"


def test_a_request_that_was_taken_from_the_queue_is_outstanding_at_once() -> None:
    # Two threads serve one call. One of them has taken its last request, and the other one takes the last reply.
    call = Asking("a", 1, 1)
    queue = queue_of(call)
    queue.next_request()
    queue.next_request()
    assert call.outstanding == 2
    assert queue.answered(call) is False
    assert queue.answered(call) is True


def test_a_request_that_is_made_again_keeps_its_call_from_being_over() -> None:
    call = Asking("a", 1)
    queue = queue_of(call)
    item = queue.next_request()
    assert item is not None
    assert queue.put_back(call, item[1]) is False
    assert (call.outstanding, call.unbegun()) == (0, 1)
    assert order(queue) == "a"


def test_a_request_of_a_call_that_has_ended_is_not_made_again() -> None:
    call = Asking("a", 1)
    queue = queue_of(call)
    item = queue.next_request()
    assert item is not None
    call.end()
    assert queue.put_back(call, item[1]) is True
    assert not queue.has_requests()


# ------------------------------------------------------------------------------------------------------- touching


def test_a_call_that_has_ended_is_not_touched() -> None:
    call, connection = Asking("a", 1), FakeConnection()
    assert call.begin(connection, in_thread=False)
    assert call.is_touched
    assert not call.is_over
    call.let_go(connection)
    call.end()
    assert not call.begin(connection, in_thread=False)
    assert not call.is_touched
    assert call.is_over


def test_an_interruption_closes_the_connections_over_which_a_call_is_touched_and_no_others() -> None:
    call = Asking("a", 1)
    connections = [FakeConnection() for _ in range(3)]
    for connection in connections:
        assert call.begin(connection, in_thread=True)
    call.let_go(connections[1])
    assert call.interrupt() == [connections[0], connections[2]]
    assert [connection.is_closed for connection in connections] == [True, False, True]


def test_a_recalled_lease_closes_the_connections_over_which_threads_touch_its_call_and_no_others() -> None:
    lease = Lease()
    with under(lease):
        call = Asking("a", 1)
    first, second = FakeConnection(), FakeConnection()
    assert call.begin(first, in_thread=True)
    assert call.begin(second, in_thread=True)
    call.let_go(first)
    assert not lease.is_idle
    lease.recall()
    assert (first.is_closed, second.is_closed) == (False, True)
    call.let_go(second)
    assert lease.is_idle


def test_a_call_whose_lease_was_recalled_fails_and_is_not_touched() -> None:
    lease = Lease()
    with under(lease):
        calls = [Asking("a", 1), Asking("b", 1)]
    lease.recall()
    for call, in_thread in zip(calls, (True, False), strict=True):
        assert not call.begin(FakeConnection(), in_thread=in_thread)
        assert call.is_ended
        assert type(call.failure).__name__ == "ReleasedObjectError"
