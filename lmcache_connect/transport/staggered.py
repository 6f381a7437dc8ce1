"""`first_of`: several ways to one end, each tried a little after the one before ("Happy Eyeballs", RFC 8305)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

import anyio

T = TypeVar("T")

HEAD_START: Final = 0.25
"""Seconds after which the next attempt begins as well. RFC 8305 recommends 250 ms."""


async def first_of(
    attempts: Iterable[Callable[[], Awaitable[T]]], discard: Callable[[T], object], errors: list[Exception]
) -> T | None:
    """Returns what the first attempt brings that brings something. None: all have failed, or there was none.

    An attempt begins when the one before it has failed, or `HEAD_START` seconds after that one began. What a second one
    brings at the same moment is given to `discard`, and so is everything where the caller is cancelled. When this ends,
    in whatever way, no attempt goes on. `errors` gets what the attempts have raised, in that order.
    """
    # Not asyncio's `staggered_race`: a caller that it lets go on may find attempts that have not ended yet. The library
    # aiohappyeyeballs has a copy of it, in which a caller that is cancelled twice goes on so, and what a second attempt
    # brings at the same moment is lost without being closed. It ends before the TLS handshake, too.
    brought: list[T] = []

    async def run(attempt: Callable[[], Awaitable[T]], ended: anyio.Event) -> None:
        try:
            brought.append(await attempt())
        except Exception as error:
            errors.append(error.with_traceback(None))
        else:
            group.cancel_scope.cancel()
        ended.set()

    try:
        async with anyio.create_task_group() as group:
            for attempt in attempts:
                ended = anyio.Event()
                group.start_soon(run, attempt, ended)
                with anyio.move_on_after(HEAD_START):
                    await ended.wait()
    except BaseException:
        for result in brought:
            discard(result)
        raise
    for result in brought[1:]:
        discard(result)
    return brought[0] if brought else None
