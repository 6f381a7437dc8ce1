"""The eager task factory of Python 3.12, for Python 3.11 as well."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from types import coroutine
from typing import Any, Final, cast


@coroutine
def _go_on(coro: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that waits for something."""
    while True:
        try:
            yield waits_for
        except BaseException as error:
            step = partial(coro.throw, error)
        else:
            step = partial(coro.send, None)
        try:
            waits_for = step()
        except StopIteration as end:
            return end.value


def _eager_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], context: Context | None = None
) -> asyncio.Future[Any]:
    context = context or copy_context()
    try:
        waits_for = context.run(coro.send, None)
    except StopIteration as end:
        done = loop.create_future()
        done.set_result(end.value)
        return done
    return asyncio.Task(cast(Any, _go_on(coro, waits_for)), loop=loop, context=context)


eager_task_factory: Final[Any] = getattr(asyncio, "eager_task_factory", _eager_task)
"""Runs the first step of a task where the task is made."""
