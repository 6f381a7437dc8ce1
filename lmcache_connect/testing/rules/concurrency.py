"""Rules for many callers at once, on one loop and on several: nothing mixes, nothing tears, nothing blocks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from ...errors import ArenaExhaustedError, SyncCallOnLoopError
from ...memory import MemoryObj
from ..loop_watch import LoopWatch
from ..subject import Subject, check_payload, outcome, payload, release, rule

LONGEST_GAP: Final = 0.1
"""Seconds that the event loop may go without a turn. More than a chunk's checksum takes, less than a caller notices."""

_TRIES: Final = 3
_LARGE: Final = 1 << 20
_HALF: Final = 1 << 19
_VERSIONS: Final = 4


class ConcurrencyRules:
    """Part of `ConnectorConformance`."""

    limit: float
    patience: float

    @rule
    async def test_concurrent_puts_and_gets_of_different_keys_do_not_mix(self, subject: Subject) -> None:
        """Connections are shared one after the other: a reply taken for the next caller's is another prompt's cache."""
        keys = subject.keys(64)
        sizes = [1 + (index * 7919) % 60_000 for index in range(64)]

        async def use(key: str, nbytes: int) -> None:
            assert await subject.connector.get(key) is None, f"{key!r} is a hit before it was stored"
            for version in range(3):
                await subject.put(key, nbytes, version=version)
                await subject.expect(key, nbytes, version=version)

        await _all_of(use(key, nbytes) for key, nbytes in zip(keys, sizes, strict=True))
        await _all_of(subject.expect(key, nbytes, version=2) for key, nbytes in zip(keys, sizes, strict=True))

    @rule
    async def test_concurrent_writers_of_one_key_leave_one_of_their_chunks_whole(self, subject: Subject) -> None:
        """Two engines that computed the same prompt store it at the same time."""
        key = subject.key()
        sizes = [200_000, 200_000, 1000, 70_000] * 2
        for _ in range(3):
            await _all_of(subject.put(key, nbytes, version=version) for version, nbytes in enumerate(sizes))
            found = await subject.read(key)
            assert found is not None, "several wrote one key, and it is a miss"
            whole = [payload(key, nbytes, version) for version, nbytes in enumerate(sizes)]
            assert found in whole, f"{len(found)} bytes came back that none of the writers stored"

    @rule
    async def test_a_reader_during_overwrites_sees_only_whole_chunks(self, subject: Subject) -> None:
        """The old one or the new one, never a miss in between and never a mixture."""
        key = subject.key()
        whole = {payload(key, _LARGE // 4, version) for version in range(_VERSIONS)}
        await subject.put(key, _LARGE // 4)
        writing = True

        async def write() -> None:
            nonlocal writing
            try:
                for version in range(5 * _VERSIONS):
                    await subject.put(key, _LARGE // 4, version=version % _VERSIONS)
            finally:
                writing = False

        async def read() -> None:
            while writing:
                found = await subject.read(key)
                assert found is not None, "a key that was being overwritten was a miss"
                assert found in whole, "a reader saw bytes that no writer had stored"
                await asyncio.sleep(0)  # a store in memory may never give the writer its turn

        await _all_of((write(), read(), read(), read()))

    @rule
    async def test_a_get_that_is_cancelled_at_any_point_leaves_nothing_behind(self, subject: Subject) -> None:
        """Requests are aborted all the time: no chunk is lost, and the next reply goes to its own caller."""
        key, other = subject.keys(2)
        await subject.put(key, _HALF)
        await subject.put(other, 1000)

        async def check(result: MemoryObj | BaseException | None) -> None:
            assert result is not None, "a get() that was cancelled answered that its key is not stored"
            if isinstance(result, MemoryObj):
                check_payload(result, key, _HALF)
            live = subject.backend.statistics().live_objects
            assert live == 0, f"a cancelled get() left {live} chunks that nobody received"
            await subject.expect(other, 1000)

        await _cancel_everywhere(lambda: subject.connector.get(key), check, "a cancelled get()", self.patience)
        await subject.expect(key, _HALF)

    @rule
    async def test_a_put_that_is_cancelled_at_any_point_leaves_a_whole_chunk(self, subject: Subject) -> None:
        """When put() has ended, nothing touches the buffer any more: its owner writes the next chunk into it."""
        key = subject.key()
        whole = [payload(key, _HALF, version) for version in range(_VERSIONS)]
        await subject.put(key, _HALF)
        version = 0

        with subject.chunk(key, _HALF) as obj:

            async def check(result: object) -> None:
                nonlocal version
                count = obj.get_ref_count()
                assert count == 1, f"a cancelled put() left {count} references to the caller's chunk; expected 1"
                obj.byte_array[:] = bytes(_HALF)
                found = await subject.read(key)
                assert found is not None, "a cancelled put() took away what was stored before it"
                assert found in whole, "a cancelled put() stored bytes that were written after it had ended"
                version = (version + 1) % _VERSIONS
                obj.byte_array[:] = whole[version]

            await _cancel_everywhere(lambda: subject.connector.put(key, obj), check, "a cancelled put()", self.patience)
        await subject.put(key, _HALF, version=1)
        await subject.expect(key, _HALF, version=1)

    @rule
    async def test_a_batch_that_is_cancelled_at_any_point_leaves_nothing_behind(self, subject: Subject) -> None:
        """The chunks that had arrived go back to the arena with those that had not."""
        keys = subject.keys(8)
        for key in keys:
            await subject.put(key, _LARGE // 8)

        async def check(result: Any) -> None:
            if isinstance(result, list):
                for obj, key in zip(result, keys, strict=True):
                    check_payload(obj, key, _LARGE // 8)
            live = subject.backend.statistics().live_objects
            assert live == 0, f"a cancelled batched_get() left {live} chunks that nobody received"

        await _cancel_everywhere(
            lambda: subject.connector.batched_get(keys), check, "a cancelled batched_get()", self.patience
        )
        for key in keys:
            await subject.expect(key, _LARGE // 8)

    @rule
    async def test_a_get_without_room_in_the_arena_waits_without_blocking_the_loop(self, subject: Subject) -> None:
        """It ends with an error or its caller's timeout, and works again as soon as somebody gives memory back."""
        key = subject.key()
        await subject.put(key, _LARGE)

        async def get_in_vain() -> None:
            try:
                async with asyncio.timeout(0.05):
                    obj = await subject.connector.get(key)
            except (ArenaExhaustedError, TimeoutError):
                return
            release([obj])
            raise AssertionError(f"get() with a full arena gave {obj!r}; expected ArenaExhaustedError, or to wait")

        held = subject.take_all_room()
        try:
            await _check_loop_is_free(get_in_vain, "a get() without room in the arena")
            waiting = asyncio.create_task(subject.connector.get(key))
            for _ in range(100):
                if waiting.done() or subject.backend.statistics().waiters:
                    break
                await asyncio.sleep(0.001)  # nothing tells when somebody begins to wait
        finally:
            release(held)
        result = await outcome(waiting, self.patience, "a get() that waited for room")
        if isinstance(result, BaseException):
            assert isinstance(result, ArenaExhaustedError), f"a get() without room ended with {result!r}"
            result = await subject.connector.get(key)
        check_payload(result, key, _LARGE)

    @rule
    async def test_no_operation_blocks_the_event_loop(self, subject: Subject) -> None:
        """An engine's scheduler runs on the same loop: while it stands still, every request does."""
        keys = subject.keys(8)
        objs = [subject.chunk(key, _LARGE) for key in keys]

        async def use_everything() -> None:
            connector = subject.connector
            await connector.put(keys[0], objs[0])
            await connector.batched_put(keys, objs)
            release([await connector.get(keys[0])])
            release(await connector.batched_get(keys))
            await connector.exists(keys[0])
            await connector.batched_exists(keys)
            if subject.capabilities.list:
                await connector.list()
            if subject.capabilities.remove:
                await connector.remove(keys[0])
            if subject.capabilities.ping:
                await connector.ping()

        try:
            await _check_loop_is_free(use_everything, "using the connector")
        finally:
            release(objs)

    @rule
    async def test_threads_without_a_loop_use_it_through_sync(self, subject: Subject) -> None:
        """Engines call from worker threads: `.sync`, and the names that LMCache has for it."""
        connector = subject.connector
        key, hole = subject.keys(2)

        def use() -> None:
            assert connector.sync.get(key, timeout=self.patience) is None, "sync.get() of a missing key must be None"
            with subject.chunk(key) as obj:
                connector.sync.put(key, obj, timeout=self.patience)
                count = obj.get_ref_count()
                assert count == 1, f"sync.put() left {count} references to the caller's chunk; expected 1"
            check_payload(connector.sync.get(key, timeout=self.patience), key, 4096)
            flags = (
                connector.sync.exists(key, timeout=self.patience),
                connector.exists_sync(key),
                connector.exists_sync(hole),
            )
            assert flags == (True, True, False), f"exists() from a thread answered {flags} for a key, it, and a hole"
            hits = connector.batched_contains([key, hole, key])
            assert hits == 1, f"batched_contains() from a thread counted {hits} hits before the hole; expected 1"
            if subject.capabilities.remove:
                assert connector.remove_sync(key) is True, "remove_sync() of a stored key must be True"

        await asyncio.to_thread(use)

    @rule
    async def test_a_synchronous_call_on_the_owning_loop_raises_at_once(self, subject: Subject) -> None:
        """It would wait for the loop that it blocks: for ever."""
        key = subject.key()
        connector = subject.connector
        for call in (connector.exists_sync, connector.sync.get):
            try:
                found = call(key)
            except SyncCallOnLoopError:
                continue
            raise AssertionError(f"{call.__name__}() on the owning loop answered {found!r}; expected it to raise")

    @rule
    async def test_another_event_loop_may_use_it(self, subject: Subject) -> None:
        """The call is taken to the owning loop and its result back, with its reference; so is a cancellation."""
        key = subject.key()
        connector = subject.connector

        async def use() -> None:
            await subject.put(key, _LARGE)
            await subject.expect(key, _LARGE)
            assert await connector.exists(key), "exists() from another loop must be True"
            found = await connector.batched_get([key, subject.key("hole")])
            try:
                assert [obj is not None for obj in found] == [True, False], "batched_get() from another loop"
            finally:
                release(found)
            if subject.capabilities.scan:
                names = [name async for name in connector.scan(subject.namespace)]
                assert names == [key], f"scan() from another loop named {names}"
            for turns in range(0, 12, 3):
                getting = asyncio.create_task(connector.get(key))
                await _turns(turns)
                getting.cancel()
                release([await outcome(getting, self.patience, "a get() cancelled on another loop")])

        await asyncio.to_thread(asyncio.run, use())
        await subject.expect(key, _LARGE)


async def _all_of(calls: Any) -> None:
    """Awaits all; the first failure cancels the others and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _cancel_everywhere(
    start: Callable[[], Coroutine[Any, Any, Any]],
    check: Callable[[Any], Awaitable[None]],
    what: str,
    patience: float,
) -> None:
    """Starts and cancels a call after so many turns of the loop, and after so many parts of the time that it takes."""
    started = time.perf_counter()
    await check(await start())
    duration = time.perf_counter() - started
    waits = [partial(_turns, turns) for turns in range(16)]
    waits += [partial(asyncio.sleep, duration * part / 12) for part in range(1, 15)]
    random.Random(0).shuffle(waits)  # so that a fault does not always meet a connection of the same history
    for wait in waits:
        task = asyncio.create_task(start())
        await wait()
        task.cancel()
        result = await outcome(task, patience, what)
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
        await check(result)


async def _check_loop_is_free(use: Callable[[], Awaitable[None]], what: str) -> None:
    longest = []
    for _ in range(_TRIES):
        async with LoopWatch() as watch:
            await use()
        longest.append(watch.longest)
        if watch.longest < LONGEST_GAP:
            return
    # The best of several tries, because a busy machine takes the processor away from everybody.
    raise AssertionError(f"{what} held the event loop for {min(longest):.3f} s at best; expected under {LONGEST_GAP} s")
