"""What a lane does with calls that are made at the same time, and what becomes of the others when one ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import StoreUnavailableError
from lmcache_connect.errors import ConnectorClosedError
from lmcache_connect.lease import Lease, under
from lmcache_connect.streaming import CallPayload
from lmcache_connect.streaming.lane import GRACE, LATE
from lmcache_connect.transport import Couriers

from .eager import eager_task_factory
from .lanes import AHEAD, LONG, Lines, LinesLane, Server

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def couriers() -> Iterator[Couriers]:
    made = Couriers()
    yield made
    made.close()


async def ended(tasks: list[asyncio.Task[None]]) -> list[Any]:
    async with asyncio.timeout(LONG):
        return await asyncio.gather(*tasks, return_exceptions=True)


def is_touched(call: Lines) -> asyncio.Future[None]:
    """Is done when a reply to `call` is being received, on the loop or in a thread."""
    loop = asyncio.get_running_loop()
    touched: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        loop.call_soon_threadsafe(touched.set_result, None)

    call.on_touch = tell
    return touched


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------ alone, and together


async def test_a_call_that_is_alone_runs_in_its_own_task(server: Server) -> None:
    lane = LinesLane(server.pool)
    call = Lines("a")
    tasks = lane.start(call)
    connection = await server.connection(0)
    assert await connection.asked() == ["a0"]
    assert asyncio.all_tasks() == {asyncio.current_task(), *tasks}
    connection.answer("a0")
    assert await ended(tasks) == [None]
    assert call.got == ["a0"]


async def test_calls_that_are_made_meanwhile_share_one_connection(server: Server) -> None:
    lane = LinesLane(server.pool)
    calls = [Lines(name) for name in "abcd"]
    tasks = lane.start(*calls)
    alone, shared = await server.connection(0), await server.connection(1)
    assert await alone.asked() == ["a0"]
    assert await shared.asked(3) == ["b0", "c0", "d0"]
    shared.answer("b0", "c0", "d0")
    alone.answer("a0")
    assert await ended(tasks) == [None] * 4
    assert [call.got for call in calls] == [["a0"], ["b0"], ["c0"], ["d0"]]
    assert len(server.connections) == 2


async def test_a_call_goes_on_when_its_own_answer_is_there(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    tasks = lane.start(Lines("a"), Lines("b"))
    connection = await server.connection(0)
    assert await connection.asked(2) == ["a0", "b0"]
    connection.answer("a0")
    async with asyncio.timeout(LONG):
        await tasks[0]
    assert not tasks[1].done()
    connection.answer("b0")
    assert await ended(tasks) == [None, None]


async def test_a_call_that_needs_no_request_ends_at_once(server: Server) -> None:
    lane = LinesLane(server.pool)
    occupying = lane.start(Lines("a"))
    await turns()
    async with asyncio.timeout(LONG):
        await lane.run(Lines("b", 0))
    await lane.close()
    (await server.connection(0)).answer("a0")
    await ended(occupying)


async def test_a_refusal_ends_its_own_call_alone(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    calls = [Lines(name, 2) for name in "ab"]
    tasks = lane.start(*calls)
    connection = await server.connection(0)
    assert await connection.asked(4) == ["a0", "a1", "b0", "b1"]
    connection.answer("-a0", "a1", "b0", "b1")
    first, second = await ended(tasks)
    assert "-a0" in str(first)
    assert second is None
    assert calls[0].got == []


# --------------------------------------------------------------------------------------------------------- cancelled


async def test_a_cancelled_call_that_was_not_sent_is_dropped(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    calls = [Lines("a", AHEAD), Lines("b"), Lines("c")]
    tasks = lane.start(*calls)
    connection = await server.connection(0)
    await connection.asked(AHEAD)
    tasks[1].cancel()
    await turns()
    assert tasks[1].cancelled()
    connection.answer(*[f"a{number}" for number in range(AHEAD)])
    assert await connection.asked() == ["c0"]
    connection.answer("c0")
    await ended(tasks)
    assert (calls[1].got, calls[1].left, calls[2].got) == ([], ["b0"], ["c0"])
    assert len(server.connections) == 1


async def test_the_reply_to_a_cancelled_call_is_dropped_and_the_others_get_theirs(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    calls = [Lines(name) for name in "abc"]
    tasks = lane.start(*calls)
    connection = await server.connection(0)
    await connection.asked(3)
    tasks[1].cancel()
    await turns()
    assert tasks[1].cancelled()
    connection.answer("a0", "b0", "c0")
    await ended(tasks)
    assert [call.got for call in calls] == [["a0"], [], ["c0"]]
    assert len(server.connections) == 1


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_cancelled_call_whose_reply_ends_in_time_costs_no_connection(
    server: Server, couriers: Couriers, in_thread: bool
) -> None:
    lane = LinesLane(server.pool, runs_alone=False, couriers=couriers if in_thread else None)
    calls = [Lines("a"), Lines("b")]
    tasks = lane.start(*calls)
    connection = await server.connection(0)
    await connection.asked(2)
    touched = is_touched(calls[0])
    connection.say("a")
    await touched
    tasks[0].cancel()
    await turns()
    assert not tasks[0].done()
    connection.answer("0", "b0")
    await ended(tasks)
    assert tasks[0].cancelled()
    assert calls[1].got == ["b0"]
    assert len(server.connections) == 1


@pytest.mark.parametrize("in_thread", [False, True])
async def test_the_connection_of_a_touched_call_is_closed_after_the_grace_and_the_others_are_sent_again(
    server: Server, couriers: Couriers, in_thread: bool
) -> None:
    lane = LinesLane(server.pool, runs_alone=False, couriers=couriers if in_thread else None)
    calls = [Lines(name) for name in "abc"]
    tasks = lane.start(*calls)
    first = await server.connection(0)
    await first.asked(3)
    touched = is_touched(calls[0])
    first.say("a")
    await touched
    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks[0].cancel()
    await asyncio.wait([tasks[0]], timeout=LONG)
    assert loop.time() - began >= GRACE * 0.9
    assert tasks[0].cancelled()
    assert not calls[0].is_touched
    second = await server.connection(1)
    assert await second.asked(2) == ["b0", "c0"]
    second.answer("b0", "c0")
    assert (await ended(tasks))[1:] == [None, None]


class _LetGoByOne(Lines):
    """Asks for lines over two connections. When it is recalled, one lets go of it, as where a payload is copied."""

    def __init__(self, server: Server, lane: LinesLane) -> None:
        super().__init__("a", 2 * AHEAD)
        self.server = server
        self.lane = lane
        self.interruptions = 0

    def recall(self) -> None:
        CallPayload(self, self.server.connections[0], self.lane.tell_finished).has_it_back()

    def interrupt(self) -> list[Any]:
        self.interruptions += 1
        if self.interruptions > 20:
            raise AssertionError("it closes the connection again and again, and lets the event loop do nothing else")
        return super().interrupt()


async def test_a_cancelled_call_waits_for_each_connection_that_touches_it_and_does_not_hold_the_loop(
    server: Server,
) -> None:
    lane = LinesLane(server.pool, drivers=2, runs_alone=False)
    call = _LetGoByOne(server, lane)
    [task] = lane.start(call)
    for index in (0, 1):
        connection = await server.connection(index)
        touched = is_touched(call)
        await connection.asked(AHEAD)
        connection.say("a")
        await touched
    task.cancel()
    await asyncio.wait([task], timeout=LONG)
    assert task.cancelled()
    assert not call.is_touched
    assert 1 <= call.interruptions <= 3
    await lane.close()


async def cut_by_another(server: Server, index: int, task: asyncio.Task[None], call: Lines) -> None:
    """Answers what stands before `call` on connection `index`, and cancels it amid its reply: that is closed."""
    connection = await server.connection(index)
    asked = await connection.asked(AHEAD)
    touched = is_touched(call)
    connection.answer(*asked[: asked.index("x0")])
    connection.say("x")
    await touched
    task.cancel()
    await ended([task])


async def test_a_call_does_not_mind_how_often_its_connection_is_closed_because_of_others(
    server: Server,
) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    call, other = Lines("a", 100), Lines("x")
    cancelled = lane.start(other)
    tasks = lane.start(call)
    for index in range(20):
        await turns()
        following = Lines("x")
        cancelled += lane.start(following)
        await cut_by_another(server, index, cancelled[index], other)
        assert not tasks[0].done()
        other = following
    last = await server.connection(20)
    answering = asyncio.ensure_future(last.answer_all())
    assert await ended([*tasks, cancelled[-1]]) == [None, None]
    answering.cancel()
    assert sorted(call.got) == sorted(f"a{number}" for number in range(100))


# -------------------------------------------------------------------------------------------------------------- lost


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_lost_connection_fails_only_the_calls_with_requests_on_it_as_one_incident(
    server: Server, couriers: Couriers, in_thread: bool
) -> None:
    lane = LinesLane(server.pool, runs_alone=False, couriers=couriers if in_thread else None)
    calls = [Lines("a", 2), Lines("b", 2), Lines("c", 2)]
    tasks = lane.start(*calls)
    first = await server.connection(0)
    assert await first.asked(AHEAD) == ["a0", "a1", "b0", "b1"]
    first.peer.close()
    second = await server.connection(1)
    second.answer(*await second.asked(2))
    a, b, c = await ended(tasks)
    assert isinstance(a, StoreUnavailableError)
    assert isinstance(b, StoreUnavailableError)
    assert a is not b
    assert a.incident is not None
    assert a.incident is b.incident
    assert c is None
    assert calls[2].got == ["c0", "c1"]


async def test_where_no_connection_is_to_be_had_all_calls_fail_as_one_incident(server: Server) -> None:
    server.failures = [StoreUnavailableError("the store", "refused")]
    lane = LinesLane(server.pool, runs_alone=False)
    a, b = await ended(lane.start(Lines("a"), Lines("b")))
    assert isinstance(a, StoreUnavailableError)
    assert a is not b
    assert a.incident is b.incident is not None


async def test_a_spare_driver_that_gets_no_connection_fails_nobody(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False, spare_drivers=1)
    calls = [Lines("a", AHEAD), Lines("b")]
    tasks = lane.start(*calls)
    first = await server.connection(0)
    asked = await first.asked(AHEAD)
    server.failures = [StoreUnavailableError("the store", "too many clients")]
    server.opened.clear()
    async with asyncio.timeout(LONG):
        await server.opened.wait()
    await turns()
    assert not server.failures
    first.answer(*asked)
    first.answer(*await first.asked())
    assert await ended(tasks) == [None, None]


async def test_a_second_driver_that_hangs_in_connecting_keeps_no_call_from_the_connection_that_is_there(
    server: Server,
) -> None:
    lane = LinesLane(server.pool, runs_alone=False, drivers=2)
    tasks = lane.start(Lines("a", AHEAD + 2))
    first = await server.connection(0)
    server.answers_connecting = asyncio.Event()
    server.opened.clear()
    asked = await first.asked(AHEAD)
    async with asyncio.timeout(LONG):
        await server.opened.wait()  # by the second one, which hangs from now on
    first.answer(*asked)
    first.answer(*await first.asked(2))
    assert await ended(tasks) == [None]
    for name in ("b", "c"):
        tasks = lane.start(Lines(name))
        first.answer(*await first.asked())
        assert await ended(tasks) == [None]
    tasks = lane.start(Lines("d"))
    server.failures = [StoreUnavailableError("the store", "it did not answer")]
    server.answers_connecting.set()
    await turns()
    first.answer(*await first.asked())
    assert await ended(tasks) == [None]


async def test_a_second_driver_that_gets_no_connection_fails_nobody_and_no_other_one_tries_soon(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False, drivers=2)
    tasks = lane.start(Lines("a", AHEAD + 2))
    first = await server.connection(0)
    server.failures = [StoreUnavailableError("the store", "too many clients")]
    asked = await first.asked(AHEAD)
    await turns()
    assert not server.failures
    server.opened.clear()
    first.answer(*asked)
    first.answer(*await first.asked(2))
    assert await ended(tasks) == [None]
    tasks = lane.start(Lines("b", AHEAD + 2))
    first.answer(*await first.asked(AHEAD))
    first.answer(*await first.asked(2))
    assert await ended(tasks) == [None]
    assert not server.opened.is_set()


async def test_where_no_thread_can_be_started_all_calls_fail(server: Server) -> None:
    class WithoutThreads(Couriers):
        async def run(self, connection: Any, job: Any) -> Any:
            job.close()
            raise RuntimeError("can't start new thread")

    lane = LinesLane(server.pool, runs_alone=False, couriers=WithoutThreads())
    a, b = await ended(lane.start(Lines("a"), Lines("b")))
    assert isinstance(a, RuntimeError)
    assert isinstance(b, RuntimeError)


# ------------------------------------------------------------------------------------------------------------ drivers


async def test_a_spare_driver_is_hired_when_nothing_gets_done(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False, spare_drivers=1)
    calls = [Lines("a", AHEAD), Lines("b"), Lines("c", AHEAD)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks = lane.start(*calls)
    first = await server.connection(0)
    asked = await first.asked(AHEAD)
    spare = await server.connection(1)
    assert loop.time() - began >= LATE * 0.9
    assert await spare.asked(AHEAD) == ["b0", "c0", "c1", "c2"]
    spare.answer("b0", "c0", "c1", "c2")
    async with asyncio.timeout(LONG):
        await tasks[1]
    assert not tasks[0].done()
    spare.answer(*await spare.asked())
    first.answer(*asked)
    assert await ended(tasks) == [None] * 3
    assert len(server.connections) == 2


async def test_no_spare_driver_is_hired_where_replies_come(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False, spare_drivers=1)
    tasks = lane.start(Lines("a", 30))
    connection = await server.connection(0)
    for _ in range(30):  # it takes longer than `LATE`
        await asyncio.sleep(LATE / 10)
        connection.answer(*await connection.asked())
    assert await ended(tasks) == [None]
    assert len(server.connections) == 1


async def test_calls_that_threads_serve_are_finished_on_the_loop(server: Server, couriers: Couriers) -> None:
    lane = LinesLane(server.pool, runs_alone=False, couriers=couriers)
    calls = [Lines(name, 3) for name in "abcdef"]
    threads: set[int] = set()
    tasks = lane.start(*calls)
    for task in tasks:
        task.add_done_callback(lambda _: threads.add(threading.get_ident()))
    connection = await server.connection(0)
    for _ in range(18):
        connection.answer(*await connection.asked())
    assert await ended(tasks) == [None] * 6
    await turns()
    assert threads == {threading.get_ident()}
    assert all(threading.get_ident() not in call.threads for call in calls)


async def test_a_driver_whose_eager_task_is_over_at_once_keeps_no_place(server: Server) -> None:
    server.answers = ["a0\r\n", "b0\r\n"]  # they are there before the first request is sent
    lane = LinesLane(server.pool, runs_alone=False)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(eager_task_factory)
    try:
        async with asyncio.timeout(LONG):
            await lane.run(Lines("a"))
            server.connections[0].peer.close()
            await lane.run(Lines("b"))  # in the same turn of the loop
    finally:
        loop.set_task_factory(None)


async def test_a_call_that_is_made_as_a_driver_is_cancelled_is_served_by_the_next_one(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False, drivers=2)
    second = Lines("b")

    async def first() -> None:
        with pytest.raises(ConnectorClosedError):
            await lane.run(Lines("a"))
        await lane.run(second)

    task = asyncio.ensure_future(first())
    await (await server.connection(0)).asked()
    [driver] = asyncio.all_tasks() - {asyncio.current_task(), task}
    driver.cancel()
    connection = await server.connection(1)
    assert await connection.asked() == ["b0"]
    connection.answer("b0")
    assert await ended([task]) == [None]
    tasks = lane.start(Lines("c"))
    connection.answer(*await connection.asked())
    assert await ended(tasks) == [None]


# ------------------------------------------------------------------------------------------------------------- leases


async def test_a_recalled_lease_of_an_answered_call_does_not_concern_those_that_wait(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    lease = Lease()
    with under(lease):
        first = Lines("a")
    second = Lines("b")
    tasks = lane.start(first, second)
    connection = await server.connection(0)
    await connection.asked(2)
    connection.answer("a0")
    async with asyncio.timeout(LONG):
        await tasks[0]
    await turns()
    lease.recall()
    connection.answer("b0")
    assert await ended(tasks) == [None, None]
    assert len(server.connections) == 1


async def test_a_lease_that_is_recalled_amid_a_reply_ends_its_own_call_alone(
    server: Server, couriers: Couriers
) -> None:
    lane = LinesLane(server.pool, runs_alone=False, couriers=couriers)
    lease = Lease()
    with under(lease):
        first = Lines("a")
    second = Lines("b")
    touched = is_touched(first)
    tasks = lane.start(first, second)
    connection = await server.connection(0)
    await connection.asked(2)
    connection.say("a")
    await touched
    lease.recall()
    again = await server.connection(1)
    assert await again.asked() == ["b0"]
    again.answer("b0")
    error, none = await ended(tasks)
    assert type(error).__name__ == "ReleasedObjectError"
    assert none is None
    assert lease.is_idle


# ------------------------------------------------------------------------------------------------------------ closing


@pytest.mark.parametrize("in_thread", [False, True])
async def test_closing_ends_all_calls(server: Server, couriers: Couriers, in_thread: bool) -> None:
    lane = LinesLane(server.pool, runs_alone=False, couriers=couriers if in_thread else None)
    calls = [Lines(name, AHEAD) for name in "abc"]
    tasks = lane.start(*calls)
    await (await server.connection(0)).asked(AHEAD)
    server.pool.close()
    async with asyncio.timeout(LONG):
        await lane.close()
    assert all(isinstance(error, ConnectorClosedError | StoreUnavailableError) for error in await ended(tasks))
    assert not any(call.is_touched for call in calls)


async def test_closing_ends_also_the_calls_whose_driver_has_not_begun(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    tasks = lane.start(Lines("a"), Lines("b"))
    await asyncio.sleep(0)  # they are queued, and a driver was hired
    server.pool.close()
    async with asyncio.timeout(LONG):
        await lane.close()
    assert [type(error) for error in await ended(tasks)] == [ConnectorClosedError] * 2


async def test_a_call_that_is_made_after_closing_fails_at_once(server: Server) -> None:
    lane = LinesLane(server.pool, runs_alone=False)
    tasks = lane.start(Lines("a"))
    await asyncio.sleep(0)
    server.pool.close()
    await lane.close()
    await ended(tasks)
    [error] = await ended(lane.start(Lines("b")))
    assert isinstance(error, ConnectorClosedError)
