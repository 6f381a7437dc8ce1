"""`OutsideCall`: one call of other people's code in a thread."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .raised import contain

T = TypeVar("T")


class OutsideCall(Generic[T]):
    """One call in a thread of a `Lane`, from its beginning to its end. `future` has its outcome."""

    def __init__(self, name: str, what: str, call: Callable[[], T], on_end: Callable[[], None] | None) -> None:
        self._name = name
        self._what = what
        self._call: Callable[[], T] | None = call
        self._on_end = on_end
        self._context = contextvars.copy_context()
        self.thread: int | None = None
        """The identity of the thread that makes the call, from its beginning on."""
        self.future: Future[T] = Future()
        """Its outcome. Cancelled where the call never began."""

    def run(self) -> None:
        """Makes the call, in the thread that calls this. Raises nothing."""
        if not self.future.set_running_or_notify_cancel():
            self.end()
            return
        self.thread = threading.get_ident()
        result: Any = None
        error: BaseException | None = None
        call, self._call = self._call, None
        try:
            try:
                if call is not None:
                    result = self._context.run(call)
            finally:
                del call
                self.end()
        except BaseException as raised:
            # Its frames may hold views of buffers, which must not live as long as the error does.
            error = contain(raised, self._name, self._what).with_traceback(None)
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)

    def end(self) -> None:
        """Lets go of what the call held, once: it has ended, or never began."""
        self._call, on_end, self._on_end = None, self._on_end, None
        if on_end is not None:
            on_end()
