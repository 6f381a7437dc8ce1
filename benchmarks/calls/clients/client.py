"""`Client`: the single calls that are measured, and what a check needs to know of their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import AsyncExitStack, ExitStack
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar


class MissingClientError(Exception):
    """The client is not installed. The message says how to install it."""


class Client(ABC):
    """What both kinds of client have. A client whose values are `bytes` needs none of it."""

    name: ClassVar[str]

    def stage(self, payload: bytes) -> Any:
        """The payload in the memory that a put of this client takes. Not measured."""
        return payload

    def received(self, value: Any) -> bytes:
        """The bytes of what a get returned. Not measured."""
        return bytes(value)

    def release(self, value: Any) -> None:  # noqa: B027  # bytes need none
        """Lets go of what a get returned, or of what was staged. Not measured."""


class AsyncClient(Client):
    """Calls that are awaited. They return what the client's own method returns, so that nothing comes in between."""

    @abstractmethod
    async def open(self, url: str, room: int, stack: AsyncExitStack) -> None:
        """Connects. `room` is how many bytes of chunks are held at a time, at most. `stack` disconnects.

        Raises:
            MissingClientError: the client is not installed.
        """

    @abstractmethod
    def exists(self, key: str) -> Awaitable[Any]:
        """Something true where there is a value."""

    @abstractmethod
    def get(self, key: str) -> Awaitable[Any]:
        """The value."""

    @abstractmethod
    def put(self, key: str, staged: Any) -> Awaitable[Any]:
        """Stores what `stage` returned."""


class BlockingClient(Client):
    """Calls that block their thread. One client serves all threads."""

    @abstractmethod
    def open(self, url: str, room: int, threads: int, stack: ExitStack) -> None:
        """Connects, on a thread without an event loop. `stack` disconnects."""

    @abstractmethod
    def exists(self, key: str) -> Any:
        """Something true where there is a value."""

    @abstractmethod
    def get(self, key: str) -> Any:
        """The value."""

    @abstractmethod
    def put(self, key: str, staged: Any) -> Any:
        """Stores what `stage` returned."""


def client_package(module: str, package: str) -> ModuleType:
    """The module of an optional client.

    Raises:
        MissingClientError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingClientError(f"{package} is not installed; `make bench-setup` installs it") from error
