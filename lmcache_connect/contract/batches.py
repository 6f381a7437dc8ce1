"""Bounded concurrency for batches of operations, and the prefix of a batch that was found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import anyio

from ..memory import MemoryObj, release_all

T = TypeVar("T")


BATCH_CONCURRENCY: Final = 16
"""The number of operations that a batch in the base class has under way at a time."""


def prefix_length(found: Sequence[object]) -> int:
    """Returns how many items there are before the first that is False or None."""
    for index, item in enumerate(found):
        if item is None or item is False:
            return index
    return len(found)


def hit_prefix(found: Sequence[MemoryObj | None]) -> list[MemoryObj]:
    """Returns the chunks before the first hole of a batch, and releases those behind it."""
    length = prefix_length(found)
    release_all(list(found[length:]))
    return [obj for obj in found[:length] if obj is not None]


async def gather(calls: Sequence[Callable[[], Awaitable[T]]], at_a_time: int = BATCH_CONCURRENCY) -> list[T]:
    """Returns the result of every call, in order, with at most `at_a_time` of them under way.

    Raises:
        The first failure of a call, after the other calls were cancelled and have ended.
    """
    results: list[T | None] = [None] * len(calls)
    failures: list[Exception] = []
    pending = iter(enumerate(calls))

    async def work() -> None:
        try:
            for index, call in pending:
                results[index] = await call()
        except Exception as failure:
            # Kept instead of raised into the group, where it would swallow a cancellation of the caller's task.
            failures.append(failure)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(min(at_a_time, len(calls))):
            group.start_soon(work)
    if failures:
        raise failures[0]
    return results  # type: ignore[return-value]  # every slot was filled
