"""What batches of operations are made of: bounded concurrency, and the hit prefix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import anyio

from ..loop import NativeCancellations
from ..memory import MemoryObj, release_all

T = TypeVar("T")


BATCH_CONCURRENCY: Final = 16
"""Operations that a batch in the base class has under way at a time."""


def prefix_length(found: Sequence[object]) -> int:
    """How many of the first items are true, or not None."""
    for index, item in enumerate(found):
        if item is None or item is False:
            return index
    return len(found)


def hit_prefix(found: Sequence[MemoryObj | None]) -> list[MemoryObj]:
    """The chunks before the first hole of a batch; the references of those behind it are given back."""
    length = prefix_length(found)
    release_all(list(found[length:]))
    return [obj for obj in found[:length] if obj is not None]


async def gather(calls: Sequence[Callable[[], Awaitable[T]]], at_a_time: int = BATCH_CONCURRENCY) -> list[T]:
    """Every call's result, in order, with a bounded number under way; the first failure cancels the rest."""
    results: list[T | None] = [None] * len(calls)
    failures: list[Exception] = []
    pending = iter(enumerate(calls))

    async def work() -> None:
        try:
            for index, call in pending:
                results[index] = await call()
        except Exception as failure:
            # Kept rather than raised into the group, where it would swallow a cancellation of the caller's task.
            failures.append(failure)
            group.cancel_scope.cancel()

    cancellations = NativeCancellations()
    async with anyio.create_task_group() as group:
        for _ in range(min(at_a_time, len(calls))):
            group.start_soon(work)
    cancellations.raise_lost()
    if failures:
        raise failures[0]
    return results  # type: ignore[return-value]  # every slot was filled
