"""Rules for callers who give up: nothing is lost, nothing is touched afterwards, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from ...errors import ArenaExhaustedError
from ...memory import MemoryObj
from ..subject import Subject, check_payload, is_same, outcome, payload, release, rule, yield_to_loop

_HALF: Final = 1 << 19
_EIGHTH: Final = 1 << 17
_VERSIONS: Final = 4
_TURNS: Final = 24


class CancellationRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float

    @rule
    async def test_a_get_that_is_cancelled_at_any_point_leaves_nothing_behind(self, subject: Subject) -> None:
        """Requests are often aborted. No chunk may be lost, and the next reply must go to its own caller."""
        key, other = subject.keys(2)
        await subject.put(key, _HALF)
        await subject.put(other, 1000)

        async def check(result: MemoryObj | BaseException | None) -> None:
            assert result is not None, "a get() that was cancelled answered that its key is not stored"
            if isinstance(result, MemoryObj):
                check_payload(result, key, _HALF)
            subject.check_nothing_is_held("a cancelled get()")
            await subject.expect(other, 1000)

        def has_room() -> int:
            return subject.backend.statistics().live_objects

        await cancel_everywhere(
            lambda: subject.connector.get(key), check, "a cancelled get()", self.ends_within, has_begun=has_room
        )
        await subject.expect(key, _HALF)

    @rule
    async def test_a_get_that_is_cancelled_as_it_gets_room_leaves_nothing_behind(self, subject: Subject) -> None:
        """Memory that was granted in the moment of the cancellation belongs to somebody all the same."""
        key = subject.key()
        await subject.put(key, _HALF)
        for turns in range(-1, 8):
            held = subject.take_all_room()
            getting = asyncio.create_task(subject.connector.get(key))
            for _ in range(50):
                if getting.done() or subject.backend.statistics().waiters:
                    break
                await asyncio.sleep(0.001)  # nothing tells when somebody begins to wait
            if turns < 0:
                getting.cancel()
            release(held)
            await yield_to_loop(turns)
            getting.cancel()
            result = await outcome(getting, self.ends_within, "a get() that was cancelled while it waited for room")
            if isinstance(result, MemoryObj):
                check_payload(result, key, _HALF)
            elif not isinstance(result, asyncio.CancelledError | ArenaExhaustedError):
                raise AssertionError(f"a get() that was cancelled while it waited for room ended with {result!r}")
            subject.check_nothing_is_held("a get() that was cancelled as it got room")
        await subject.expect(key, _HALF)

    @rule
    async def test_a_put_that_is_cancelled_at_any_point_leaves_a_whole_chunk(self, subject: Subject) -> None:
        """Once `put` has ended, nothing may read the buffer, because its owner writes the next chunk into it."""
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
                assert is_same(found, *whole), "a cancelled put() stored bytes that were written after it had ended"
                version = (version + 1) % _VERSIONS
                obj.byte_array[:] = whole[version]

            await cancel_everywhere(
                lambda: subject.connector.put(key, obj), check, "a cancelled put()", self.ends_within
            )
        # Under another key: what a cancelled put had sent, a store may take after a later put of the same key.
        other = subject.key("afterwards")
        await subject.put(other, _HALF, version=1)
        await subject.expect(other, _HALF, version=1)

    @rule
    async def test_a_batch_that_is_cancelled_at_any_point_leaves_nothing_behind(self, subject: Subject) -> None:
        """Chunks that have arrived are released, and so are those that have not."""
        keys = subject.keys(8)
        for key in keys:
            await subject.put(key, _EIGHTH)

        async def check(result: Any) -> None:
            if isinstance(result, list):
                for obj, key in zip(result, keys, strict=True):
                    check_payload(obj, key, _EIGHTH)
            subject.check_nothing_is_held("a cancelled batched_get()")

        await cancel_everywhere(
            lambda: subject.connector.batched_get(keys), check, "a cancelled batched_get()", self.ends_within
        )
        for key in keys:
            await subject.expect(key, _EIGHTH)


async def cancel_everywhere(
    start: Callable[[], Coroutine[Any, Any, Any]],
    check: Callable[[Any], Awaitable[None]],
    what: str,
    ends_within: float,
    *,
    has_begun: Callable[[], object] | None = None,
) -> None:
    """Cancels the call at many points of the loop's turns and of time.

    After 0 to 23 turns of the loop, and at 14 moments of its duration. With `has_begun`, which tells whether memory has
    been allocated, at as many points again, counted from that moment.
    """
    started = time.perf_counter()
    await check(await start())
    duration = time.perf_counter() - started
    waits = [partial(yield_to_loop, turns) for turns in range(_TURNS)]
    waits += [partial(asyncio.sleep, duration * part / 12) for part in range(1, 15)]
    random.Random(0).shuffle(waits)  # so that a fault does not always meet a connection of the same history
    for begun in (None,) if has_begun is None else (None, has_begun):
        for wait in waits:
            task = asyncio.create_task(start())
            while begun is not None and not task.done() and not begun():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)
            await wait()
            task.cancel()
            result = await outcome(task, ends_within, what)
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
            await check(result)
