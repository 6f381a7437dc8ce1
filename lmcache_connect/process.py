"""`Process`: the process that made an object. Its forks must not touch the object's locks, loop and sockets."""

from __future__ import annotations

import os
import threading
from typing import Final

from .errors import ForkedProcessError


class Process:
    """One process. There is one object for each, and a fork makes a new one.

    A fork inherits every lock as it was, held perhaps by a thread that the fork does not have. It shares every socket
    and epoll with its parent. So each object that has one keeps the `Process` that made it, and asks it first.
    """

    __slots__ = ("_pid", "lock")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.lock: Final = threading.RLock()
        """A lock for what is changed rarely and briefly. A fork has a new one, which nobody holds."""

    def is_forked(self) -> bool:
        """Whether this code runs in a fork of the process."""
        return self is not _this

    def check(self, what: str) -> None:
        """Raises `ForkedProcessError` in a fork. `what` is named in the message."""
        if self is not _this:
            raise ForkedProcessError(what, self._pid, os.getpid())


class ProcessLock:
    """A lock of one object, for `with`. Raises `ForkedProcessError` in a fork, where it might never be free."""

    __slots__ = ("_lock", "_process", "_what")

    def __init__(self, what: str) -> None:
        """`what` is the object's name in the error."""
        self._what = what
        self._process = _this
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._process.check(self._what)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class ModuleLock:
    """A lock of a module, for `with`. A fork has a new one: the module works there as well."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def this_process() -> Process:
    """The process that this code runs in."""
    return _this


_this = Process()


def _begin_in_fork() -> None:
    global _this  # noqa: PLW0603 - a fact about the process
    _this = Process()


os.register_at_fork(after_in_child=_begin_in_fork)
