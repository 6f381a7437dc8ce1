"""What several threads and loops ask of one loop is begun together, in order, and is never lost."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

import pytest

from lmcache_connect.errors import LoopNotRunningError
from lmcache_connect.loop import LoopOwner
from lmcache_connect.loop.mailbox import mailbox_of

from .test_loop_owner import run_script


@pytest.fixture
def owner() -> Iterator[LoopOwner]:
    made = LoopOwner.start()
    yield made
    made.close_sync()


class Held:
    """A loop that does nothing while the `with` block runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_held, self._may_go_on = threading.Event(), threading.Event()

    def _hold(self) -> None:
        self._is_held.set()
        assert self._may_go_on.wait(30)

    def __enter__(self) -> None:
        self._loop.call_soon_threadsafe(self._hold)
        assert self._is_held.wait(30)

    def __exit__(self, *_: object) -> None:
        self._may_go_on.set()


class Iterations:
    """Counts the iterations of the loop that runs, until `end()`."""

    def __init__(self) -> None:
        self.count = 0
        self._goes_on = True
        self._next()

    def _next(self) -> None:
        self.count += 1
        if self._goes_on:
            asyncio.get_running_loop().call_soon(self._next)

    def end(self) -> None:
        self._goes_on = False


async def iterations() -> Iterations:
    return Iterations()


def waiting_threads() -> int:
    """The number of threads that wait for a call that they have submitted."""
    found = 0
    for frame in sys._current_frames().values():
        deeper: FrameType | None = frame
        while deeper is not None:
            found += deeper.f_code.co_qualname == "Call.wait"
            deeper = deeper.f_back
    return found


def test_calls_of_several_threads_that_arrive_together_begin_in_one_iteration_of_the_loop(owner: LoopOwner) -> None:
    counted = owner.run_sync("iterations", 10, iterations)

    async def begun_in() -> int:
        return counted.count

    with ThreadPoolExecutor(16) as threads:
        with Held(owner.loop):
            calls = [threads.submit(owner.run_sync, "begun_in", 10, begun_in) for _ in range(16)]
            while waiting_threads() < 16:
                pass
        assert len({call.result(10) for call in calls}) == 1
    owner.loop.call_soon_threadsafe(counted.end)


@pytest.mark.asyncio
async def test_calls_of_another_loop_that_are_made_together_begin_in_one_iteration_and_in_order(
    owner: LoopOwner,
) -> None:
    counted = await owner.run(iterations)
    begun: list[int] = []

    async def begun_in(number: int) -> int:
        begun.append(number)
        return counted.count

    with Held(owner.loop):
        calls = [asyncio.ensure_future(owner.run(begun_in, number)) for number in range(100)]
        await asyncio.sleep(0)
    assert len(set(await asyncio.gather(*calls))) == 1
    assert begun == list(range(100))
    owner.loop.call_soon_threadsafe(counted.end)


def test_what_many_threads_post_is_called_once_each_and_in_the_order_of_each_thread(owner: LoopOwner) -> None:
    mailbox = mailbox_of(owner.loop)
    called: list[tuple[int, int]] = []
    everything = threading.Event()

    def note(thread: int, number: int) -> None:
        called.append((thread, number))
        if len(called) == 8 * 2000:
            everything.set()

    def post(thread: int) -> None:
        for number in range(2000):
            mailbox.post(partial(note, thread, number))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that the threads and the loop are interrupted between any two steps
    try:
        threads = [threading.Thread(target=post, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        assert everything.wait(60)
    finally:
        sys.setswitchinterval(before)
    for number in range(8):
        assert [n for thread, n in called if thread == number] == list(range(2000))


def test_what_is_posted_to_a_loop_that_was_closed_after_it_was_woken_is_refused_and_not_kept() -> None:
    loop = asyncio.new_event_loop()
    mailbox = mailbox_of(loop)

    class Posted:
        def __call__(self) -> None:
            raise AssertionError("called on a closed loop")

    posted = Posted()
    kept = weakref.ref(posted)
    mailbox.post(posted)
    loop.close()
    del posted
    with pytest.raises(RuntimeError, match="closed"):
        mailbox.post(lambda: None)
    gc.collect()
    assert kept() is None
    with pytest.raises(LoopNotRunningError, match="closed"):
        LoopOwner.of(loop).run_sync("late", 5, asyncio.sleep, 0)


def test_a_mailbox_does_not_keep_its_loop() -> None:
    loop = asyncio.new_event_loop()
    mailbox = mailbox_of(loop)
    assert mailbox_of(loop) is mailbox
    kept = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert kept() is None
    with pytest.raises(RuntimeError, match="closed"):
        mailbox.post(lambda: None)


def test_a_call_that_is_cancelled_before_it_has_begun_never_begins(owner: LoopOwner) -> None:
    begun: list[bool] = []

    async def begin() -> None:
        begun.append(True)

    async def cancelled() -> None:
        with Held(owner.loop):
            call = asyncio.ensure_future(owner.run(begin))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(cancelled())
    owner.run_sync("behind it", 10, asyncio.sleep, 0)
    assert not begun


def test_a_loop_that_is_shut_down_before_the_first_step_of_a_call_is_an_error_and_not_a_hang() -> None:
    outcome: list[BaseException] = []
    begun: list[bool] = []

    async def begin() -> None:
        begun.append(True)

    def call(owner: LoopOwner) -> None:
        try:
            owner.run_sync("begin", 60, begin)
        except BaseException as error:
            outcome.append(error)

    async def end_when_submitted() -> threading.Thread:
        thread = threading.Thread(target=call, args=(LoopOwner.adopt(),))
        thread.start()
        while not waiting_threads():
            pass  # the loop stands still: the call begins in its last iteration
        return thread

    thread = asyncio.run(end_when_submitted())
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(outcome[0], LoopNotRunningError)
    assert not begun


def test_an_interrupt_amid_the_submission_is_raised_and_holds_up_nobody(owner: LoopOwner) -> None:
    """`KeyboardInterrupt` may come between any two steps of the main thread. The next call is answered all the same."""

    def interrupted(frame: FrameType, what: str, argument: object) -> Any:
        if frame.f_code.co_qualname == "Mailbox.post" and what == "line":
            lines.add(frame.f_lineno)
            if frame.f_lineno == at:
                raise KeyboardInterrupt
        return interrupted

    def call_with_interrupt() -> None:
        before = sys.gettrace()
        sys.settrace(interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                owner.run_sync("interrupted", 10, asyncio.sleep, 0)
        finally:
            sys.settrace(before)

    at, lines = 0, set[int]()
    sys.settrace(interrupted)
    try:
        owner.run_sync("traced", 10, asyncio.sleep, 0)
    finally:
        sys.settrace(None)
    assert len(lines) >= 5
    for at in sorted(lines):
        call_with_interrupt()
        assert owner.run_sync("the next", 10, asyncio.sleep, 0, at) == at


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals reach no chosen thread here")
def test_an_interrupt_while_a_thread_waits_is_raised_when_the_operation_has_ended() -> None:
    done = run_script(
        """
        import asyncio, signal, threading
        from lmcache_connect.loop import LoopOwner
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell runs in the background
        owner = LoopOwner.start()
        main = threading.main_thread().ident

        async def interrupted():
            try:
                await asyncio.sleep(0.01)
                signal.pthread_kill(main, signal.SIGINT)
                await asyncio.sleep(3600)
            finally:
                print("ended", flush=True)

        try:
            owner.run_sync("interrupted", 60, interrupted)
        except KeyboardInterrupt:
            print("raised", flush=True)
        print(owner.run_sync("next", 60, asyncio.sleep, 0, "answered"))
        owner.close_sync()
        """
    )
    assert done.stderr == ""
    assert done.stdout == "ended\nraised\nanswered\n"


def test_a_failure_is_freed_with_its_last_holder_and_not_by_the_garbage_collector(owner: LoopOwner) -> None:
    class Held:
        pass

    def failed() -> weakref.ref[Held]:
        held = Held()

        async def fail() -> None:
            raise OSError(held)

        with pytest.raises(OSError) as caught:
            owner.run_sync("fail", 10, fail)
        del caught
        return weakref.ref(held)

    async def failed_elsewhere() -> weakref.ref[Held]:
        held = Held()

        async def fail() -> None:
            raise OSError(held)

        try:
            await owner.run(fail)
        except OSError:
            pass
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        for kept in (failed(), asyncio.run(failed_elsewhere())):
            owner.run_sync("behind it", 10, asyncio.sleep, 0)
            assert kept() is None
    finally:
        gc.enable()
