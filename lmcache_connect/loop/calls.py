"""`Call`: one operation that runs on the owning loop for a caller elsewhere."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ..errors import (
    LoopNotRunningError,
)
from ..memory import release_all

T = TypeVar("T")


class Call(Generic[T]):
    """One operation that runs on the owning loop for a caller elsewhere."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]], on_done: Callable[[], None]) -> None:
        self._start = start
        self._on_done = on_done
        self._lock = threading.Lock()
        self._task: asyncio.Task[T] | None = None
        self._failure: BaseException | None = None
        self._cancelled = False
        self._abandoned = False
        self._released = False

    def submit(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._begin, context=contextvars.copy_context())
        except RuntimeError:
            raise LoopNotRunningError("it is closed") from None

    def _begin(self) -> None:
        if self._cancelled:
            self._on_done()
            return
        try:
            self._task = asyncio.get_running_loop().create_task(self._start())
        except BaseException as failure:  # not a coroutine function, say: the caller shall know
            self._failure = failure
            self._on_done()
            return
        self._task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[T]) -> None:
        if self._abandoned:
            self._release(task)
        else:
            self._on_done()

    def cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        self._cancelled = True
        call_soon(loop, self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def abandon(self) -> None:
        """The caller is gone: whatever comes out is released."""
        self._abandoned = True
        if (task := self._task) is not None and task.done():
            self._release(task)

    def _release(self, task: asyncio.Task[T]) -> None:
        with self._lock:  # the caller's thread and the loop's may both find the outcome
            if self._released:
                return
            self._released = True
        if not task.cancelled() and task.exception() is None:
            release_all(task.result())

    def is_done(self) -> bool:
        return self._task is not None and self._task.done()

    def result(self) -> T:
        if self._failure is not None:
            raise self._failure
        if self._task is None:
            raise LoopNotRunningError("the operation never began there")
        try:
            return self._task.result()
        except asyncio.CancelledError:
            # Nobody cancelled the caller: the loop was shut down under the operation.
            raise LoopNotRunningError("the operation was cancelled there") from None


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        pass  # the loop is closed: nobody is left to be told
