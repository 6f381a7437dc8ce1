"""Rules for callers who give up: nothing is lost, nothing is touched afterwards, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from ...memory import MemoryObj
from ..subject import Subject, check_payload, outcome, payload, rule, yield_to_loop

_HALF: Final = 1 << 19
_EIGHTH: Final = 1 << 17
_VERSIONS: Final = 4


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
            live = subject.backend.statistics().live_objects
            assert live == 0, f"a cancelled get() left {live} chunks that nobody received"
            await subject.expect(other, 1000)

        await _cancel_everywhere(lambda: subject.connector.get(key), check, "a cancelled get()", self.ends_within)
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
                assert found in whole, "a cancelled put() stored bytes that were written after it had ended"
                version = (version + 1) % _VERSIONS
                obj.byte_array[:] = whole[version]

            await _cancel_everywhere(
                lambda: subject.connector.put(key, obj), check, "a cancelled put()", self.ends_within
            )
        await subject.put(key, _HALF, version=1)
        await subject.expect(key, _HALF, version=1)

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
            live = subject.backend.statistics().live_objects
            assert live == 0, f"a cancelled batched_get() left {live} chunks that nobody received"

        await _cancel_everywhere(
            lambda: subject.connector.batched_get(keys), check, "a cancelled batched_get()", self.ends_within
        )
        for key in keys:
            await subject.expect(key, _EIGHTH)


async def _cancel_everywhere(
    start: Callable[[], Coroutine[Any, Any, Any]],
    check: Callable[[Any], Awaitable[None]],
    what: str,
    ends_within: float,
) -> None:
    """Cancels the call at many points: after 0 to 15 iterations of the loop, and at 14 moments of its duration."""
    started = time.perf_counter()
    await check(await start())
    duration = time.perf_counter() - started
    waits = [partial(yield_to_loop, turns) for turns in range(16)]
    waits += [partial(asyncio.sleep, duration * part / 12) for part in range(1, 15)]
    random.Random(0).shuffle(waits)  # so that a fault does not always meet a connection of the same history
    for wait in waits:
        task = asyncio.create_task(start())
        await wait()
        task.cancel()
        result = await outcome(task, ends_within, what)
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
        await check(result)
