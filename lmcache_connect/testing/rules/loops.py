"""Rules for event loops and threads: the owning loop is never blocked, and others may call from outside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ...errors import ArenaExhaustedError, SyncCallOnLoopError
from ..loop_io import LoopIO
from ..loop_watch import LoopWatch
from ..subject import Subject, check_payload, outcome, release, rule, yield_to_loop

LONGEST_GAP: Final = 0.1
"""Seconds for which a call may hold the event loop. A chunk's checksum takes less, and a caller notices more."""

TRIES: Final = 5
"""How often a measurement is repeated that a busy machine can spoil."""

_LARGE: Final = 1 << 20
_HUGE: Final = 32 << 20
_COPIES: Final = 6


class LoopRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float

    @rule
    async def test_a_get_without_room_in_the_arena_waits_without_blocking_the_loop(self, subject: Subject) -> None:
        """It waits or ends with an error, and succeeds as soon as somebody releases memory."""
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
            await check_loop_is_free(get_in_vain, "a get() without room in the arena")
            waiting = asyncio.create_task(subject.connector.get(key))
            for _ in range(100):
                if waiting.done() or subject.backend.statistics().waiters:
                    break
                await asyncio.sleep(0.001)  # nothing tells when somebody begins to wait
        finally:
            release(held)
        result = await outcome(waiting, self.ends_within, "a get() that waited for room")
        if isinstance(result, BaseException):
            assert isinstance(result, ArenaExhaustedError), f"a get() without room ended with {result!r}"
            result = await subject.connector.get(key)
        check_payload(result, key, _LARGE)

    @rule
    async def test_no_operation_blocks_the_event_loop(self, subject: Subject) -> None:
        """An engine's scheduler may run on the same loop. While the loop is blocked, no request proceeds."""
        keys = subject.keys(8)
        objs = [subject.chunk(key, _LARGE) for key in keys]

        async def use_everything() -> None:
            connector = subject.connector
            await connector.put(keys[0], objs[0])
            await connector.batched_put(keys, objs)
            release([await connector.get(keys[0])])
            release(await connector.batched_get(keys))
            theirs = [bytearray(_LARGE) for _ in keys]
            await connector.put_from(keys[0], theirs[0])
            await connector.batched_put_from(keys, theirs)
            await connector.get_into(keys[0], theirs[0])
            await connector.batched_get_into(keys, theirs)
            await connector.exists(keys[0])
            await connector.batched_exists(keys)
            if subject.capabilities.list:
                await connector.list()
            if subject.capabilities.remove:
                await connector.remove(keys[0])
            if subject.capabilities.ping:
                await connector.ping()

        try:
            await check_loop_is_free(use_everything, "using the connector")
        finally:
            release(objs)

    @rule
    async def test_a_chunk_of_32_mebibytes_does_not_block_the_event_loop(self, subject: Subject) -> None:
        """What takes a moment for a small chunk stops every request for a large one: a file, a database, a checksum."""
        nbytes = min(_HUGE, subject.capabilities.max_chunk_bytes)
        key = subject.key()
        with subject.chunk(key, nbytes) as obj:
            source = bytes(obj.byte_array)

            async def use() -> None:
                await subject.connector.put(key, obj)
                with LoopIO() as io:
                    got = await subject.connector.get(key)
                release([got])
                assert got is not None, f"a chunk of {nbytes} bytes was stored and is a miss"
                assert io.bytes_read < nbytes // 2, (
                    f"a get() of {nbytes} bytes read {io.bytes_read} bytes from files in the event loop's thread; read "
                    "them in a thread of your own"
                )

            def limit() -> float:
                return max(LONGEST_GAP, _COPIES * min(_copying(source) for _ in range(TRIES)))

            await check_loop_is_free(use, f"storing and reading {nbytes >> 20} MiB", limit)
        if subject.capabilities.remove:
            await subject.connector.remove(key)

    @rule
    async def test_threads_without_a_loop_use_it_through_sync(self, subject: Subject) -> None:
        """Engines call from worker threads, through `.sync` or through LMCache's names for the same."""
        connector = subject.connector
        key, hole = subject.keys(2)

        def use() -> None:
            assert connector.sync.get(key, timeout=self.ends_within) is None, "sync.get() of a missing key must be None"
            with subject.chunk(key) as obj:
                connector.sync.put(key, obj, timeout=self.ends_within)
                count = obj.get_ref_count()
                assert count == 1, f"sync.put() left {count} references to the caller's chunk; expected 1"
            check_payload(connector.sync.get(key, timeout=self.ends_within), key, 4096)
            flags = (
                connector.sync.exists(key, timeout=self.ends_within),
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
        """It would block the loop that it waits for, for ever."""
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
        """The call runs on the owning loop, and the caller gets its result. A cancellation reaches the call."""
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
                await yield_to_loop(turns)
                getting.cancel()
                release([await outcome(getting, self.ends_within, "a get() cancelled on another loop")])

        await asyncio.to_thread(asyncio.run, use())
        await subject.expect(key, _LARGE)


def _copying(source: bytes) -> float:
    """Seconds for a copy, on this machine and as busy as it is."""
    started = time.perf_counter()
    bytearray(source)
    return time.perf_counter() - started


async def check_loop_is_free(
    use: Callable[[], Awaitable[None]], what: str, limit_now: Callable[[], float] = lambda: LONGEST_GAP
) -> None:
    """Fails where each of several tries holds the loop for the limit or longer. A close result gets more tries.

    `limit_now` returns it in seconds. It is asked before the tries and after them: another load may slow the machine
    down meanwhile.
    """
    limit = limit_now()
    longest: list[float] = []
    while len(longest) < TRIES or (len(longest) < 3 * TRIES and min(longest) < 2 * limit):  # one that is close has more
        async with LoopWatch() as watch:
            await use()
        longest.append(watch.longest)
        if watch.longest < limit:
            return
    limit = max(limit, limit_now())
    if min(longest) < limit:
        return
    # The best of several tries, because a busy machine takes the processor away from everybody.
    raise AssertionError(
        f"{what} held the event loop for {min(longest):.3f} s at best; expected under {limit:.3g} s; let a thread "
        "wait for what blocks, and move large chunks in pieces"
    )
