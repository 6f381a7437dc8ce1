"""`OutsideTask`: one call of other people's coroutine in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ..transport import wait_uncancelled
from .raised import contain

T = TypeVar("T")


class OutsideTask(Generic[T]):
    """One call in a task of a `Lane`, from its beginning to its end."""

    def __init__(
        self,
        name: str,
        what: str,
        start: Callable[[], Coroutine[Any, Any, T]],
        on_end: Callable[[], None] | None,
    ) -> None:
        self._name = name
        self._what = what
        self._start = start
        self._on_end = on_end
        self._task: asyncio.Task[T] | None = None
        self._is_cancelled = False

    def begin(self) -> asyncio.Task[T]:
        """Begins the task on the running loop."""
        self._task = task = asyncio.get_running_loop().create_task(self._run(), name=f"outside {self._what}")
        # Who shuts a loop down, such as `asyncio.run`, waits for all tasks that it finds, for ever. It must not find
        # this one: its caller is found, and cancels it.
        asyncio.tasks._unregister_task(task)
        return task

    async def cancel(self, seconds: float) -> None:
        """Cancels the task, and waits for its end for `seconds` at most. Cancels twice: the first one may get lost."""
        self._is_cancelled = True
        task = self._task
        for _ in range(2):
            if task is not None and not task.done():
                task.cancel()
                await wait_uncancelled(task, seconds / 2)

    def abandon(self) -> None:
        """Says nothing where the task is destroyed before it has ended: that it was left behind is counted."""
        self._task._log_destroy_pending = False  # type: ignore[union-attr]

    def end(self) -> None:
        """Lets go of what the call held, once: it has ended, or never began."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    async def _run(self) -> T:
        try:
            return await self._start()
        except asyncio.CancelledError as error:
            if self._is_cancelled:
                raise
            raise contain(error, self._name, self._what) from error
        except GeneratorExit as error:
            if not self._is_stepped():  # the loop is gone, and the task with it
                raise
            raise contain(error, self._name, self._what) from error
        except BaseException as error:
            made = contain(error, self._name, self._what)
            if made is error:
                raise
            raise made from made.__cause__
        finally:
            self.end()

    def _is_stepped(self) -> bool:
        try:
            return asyncio.current_task() is self._task
        except RuntimeError:
            return False
