"""`checkpointed`: has every call of an async method pass at least one checkpoint, at little cost.

A call that never waits never lets the event loop do anything else. A caller that repeats it, because it was refused at
once or answered from memory, then starves every other task: also the probe that would have the store called again.

So each call waits for one iteration of the loop, unless it waits for something anyway. Its first step tells that: the
call is begun by hand, and what it then waits for is passed on.
"""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

M = TypeVar("M", bound=Callable[..., Coroutine[Any, Any, Any]])


def checkpointed(discard: Callable[[Any], object]) -> Callable[[M], M]:
    """A decorator of async methods. Each call then waits at least once, whether it returns or raises.

    `discard` is given a result that the caller cannot take, because it was cancelled while it waited.
    """

    def decorate(method: M) -> M:
        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await _waits(discard, method, args, kwargs)

        return cast(M, call)

    return decorate


@types.coroutine
def _waits(
    discard: Callable[[Any], object],
    method: Callable[..., Coroutine[Any, Any, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Generator[Any, Any, Any]:
    result = None
    try:
        call = method(*args, **kwargs)
        waits_for = call.send(None)
    except StopIteration as ended:
        result = ended.value
    except Exception:
        if _on_a_loop():
            yield
        raise
    else:
        while True:
            try:
                yield waits_for
            except GeneratorExit:
                call.close()
                raise
            except BaseException as thrown:
                try:
                    waits_for = call.throw(thrown)
                except StopIteration as ended:
                    return ended.value
            else:
                del waits_for  # a future may hold a chunk
                return (yield from call)
    if _on_a_loop():
        try:
            yield
        except BaseException:
            discard(result)
            raise
    return result


def _on_a_loop() -> bool:
    """Whether a loop runs here. It does not in a fork, where each call is refused and must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def nothing(_: object) -> None:
    """For results that hold nothing."""
