"""`OwnThreadCalls`: single calls that run in their caller's own thread, where the event loop has no part in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

from ..keys import Key
from ..memory import MemoryObj
from .caller_memory import CallerMemory


class NotInThisThreadError(Exception):
    """The call needs the event loop. Nothing has come of it in the thread, and it is made again there."""


class OwnThreadCalls(ABC):
    """Single calls of a connector, for threads without an event loop, over connections that only threads use.

    A thread takes a connection, steps one coroutine to its end, and puts the connection back. The coroutines wait for
    nothing but the connection's stream, so that one step is all. They raise `NotInThisThreadError` for everything that
    is not plain: a damaged record, no room, several requests. From any thread.
    """

    @abstractmethod
    def take(self, key: Key, nbytes: int | None, deadline: float) -> Any | None:
        """Returns a connection for a call about `key` that moves `nbytes` (None: as many as a get brings), or None.

        What waits on it fails soon after `deadline`, a time of `time.monotonic`, also where the event loop is held up.
        """

    @abstractmethod
    def put_back(self, connection: Any) -> None:
        """Lets another thread use a connection. Closes it where it cannot be used again."""

    @abstractmethod
    def exists(self, connection: Any, key: Key) -> Coroutine[Any, Any, bool]:
        """See `RemoteConnector.exists`."""

    @abstractmethod
    def get(self, connection: Any, key: Key) -> Coroutine[Any, Any, MemoryObj | None]:
        """See `RemoteConnector.get`."""

    @abstractmethod
    def put(self, connection: Any, key: Key, memory_obj: MemoryObj) -> Coroutine[Any, Any, None]:
        """See `RemoteConnector.put`."""

    @abstractmethod
    def get_into(self, connection: Any, memory: CallerMemory) -> Coroutine[Any, Any, bool]:
        """See `RemoteConnector.get_into`, for the one key of `memory`."""

    @abstractmethod
    def put_from(self, connection: Any, memory: CallerMemory) -> Coroutine[Any, Any, bool]:
        """See `RemoteConnector.put_from`, for the one key of `memory`."""
