"""`NodesOwnThread`: single calls to one of several servers, over a connection that their caller's own thread has."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from lmcache_connect import Key, MemoryObj, StoreError, key_string
from lmcache_connect.contract import CallerMemory, NotInThisThreadError, OwnThreadCalls
from lmcache_connect.errors import WrongNodeError

from ..protocol.connection import Connection
from .node import Node

T = TypeVar("T")


class NodeConnection:
    """A connection to one of the servers, while a thread has it."""

    __slots__ = ("calls", "connection", "node")

    def __init__(self, node: Node, calls: OwnThreadCalls, connection: Connection) -> None:
        self.node: Final = node
        self.calls: Final = calls
        self.connection: Final = connection

    def close(self) -> None:
        """Closes the connection. From any thread."""
        self.connection.close()


class NodesOwnThread(OwnThreadCalls):
    """Passes a call on to the server that has its key. What a server has failed is made again on the event loop.

    There the server's breaker is told, and the call repeated by the rules.
    """

    def __init__(
        self, node_of_name: Callable[[str], Node | None], names_of: Callable[[Sequence[str]], list[str]]
    ) -> None:
        self._node_of_name: Final = node_of_name
        self._names_of: Final = names_of

    def take(self, key: Key, nbytes: int | None, deadline: float) -> NodeConnection | None:
        [name] = self._names_of([key_string(key)])
        node = self._node_of_name(name)
        if node is None or not node.is_plain:
            return None
        calls = node.connector.own_thread_calls()
        connection = None if calls is None else calls.take(key, nbytes, deadline)
        return None if calls is None or connection is None else NodeConnection(node, calls, connection)

    def put_back(self, connection: NodeConnection) -> None:
        connection.calls.put_back(connection.connection)

    async def exists(self, connection: NodeConnection, key: Key) -> bool:
        return await _made(connection.node, connection.calls.exists(connection.connection, key))

    async def get(self, connection: NodeConnection, key: Key) -> MemoryObj | None:
        return await _made(connection.node, connection.calls.get(connection.connection, key))

    async def put(self, connection: NodeConnection, key: Key, memory_obj: MemoryObj) -> None:
        await _made(connection.node, connection.calls.put(connection.connection, key, memory_obj))

    async def get_into(self, connection: NodeConnection, memory: CallerMemory) -> bool:
        return await _made(connection.node, connection.calls.get_into(connection.connection, memory))

    async def put_from(self, connection: NodeConnection, memory: CallerMemory) -> bool:
        try:
            return await connection.calls.put_from(connection.connection, memory)
        except WrongNodeError:  # nothing was stored
            raise NotInThisThreadError from None
        except StoreError:  # it may have been stored, and is not sent twice
            connection.node.suspect()
            raise


async def _made(node: Node, call: Coroutine[Any, Any, T]) -> T:
    try:
        return await call
    except StoreError:
        node.suspect()
        raise NotInThisThreadError from None
