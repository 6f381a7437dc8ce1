"""Nested replies: arrays of arrays, strings and numbers, read within bounds."""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

from .connection import Connection

Tree: TypeAlias = "bytes | int | list[Tree] | None"
"""A reply: a string, a number, an array of replies, or nothing."""

_ITEM_BYTES: Final = 16
"""What an item counts besides the bytes of its string."""


_AT_A_TIME: Final = 200
"""Items that are taken before the event loop may do other work: a millisecond or two."""


async def read_nested(
    connection: Connection, limit: int, item_limit: int, depth: int, *, gives_way: bool = False
) -> Tree:
    """Takes and returns a reply of at most `depth` arrays inside each other, and about `limit` bytes in all.

    `item_limit`: bytes of each string, at most `SCRATCH_BYTES`. `gives_way`: the event loop does other work meanwhile,
    for long replies; not in a thread.

    Raises:
        StoreError: the typed error of an error reply. StoreProtocolError for a reply beyond the bounds: the stream is
            closed.
    """
    return await read_nested_from(
        await connection.read_line(), connection, limit, item_limit, depth, gives_way=gives_way
    )


async def read_nested_from(
    line: bytes, connection: Connection, limit: int, item_limit: int, depth: int, *, gives_way: bool = False
) -> Tree:
    """`read_nested` where the first line was taken."""
    if line[:1] == b"-":
        raise connection.unexpected(line, "an array")
    tree = await _Reading(connection, limit, item_limit, gives_way=gives_way).read(line, depth)
    connection.pending -= 1
    return tree


class _Reading:
    """One reply, while it is read."""

    __slots__ = ("_connection", "_gives_way", "_item_limit", "_items", "_left")

    def __init__(self, connection: Connection, limit: int, item_limit: int, *, gives_way: bool) -> None:
        self._connection: Final = connection
        self._item_limit: Final = item_limit
        self._gives_way: Final = gives_way
        self._left = limit
        self._items = 0

    async def read(self, line: bytes, depth: int) -> Tree:
        """Returns the item that begins with `line`."""
        connection = self._connection
        self._left -= _ITEM_BYTES
        self._items += 1
        if self._gives_way and self._items % _AT_A_TIME == 0:
            await asyncio.sleep(0)
        if line[:1] == b":":
            return connection.number(line)
        if line[:1] == b"+":
            self._left -= len(line)
            if len(line) > self._item_limit + 1 or self._left < 0:
                raise connection.broken(f"a status of {len(line)} bytes in a nested reply; expected less")
            return line[1:]
        size = connection.number(line)
        if size == -1 and line[:1] in b"$*":
            return None
        if line[:1] == b"$":
            self._left -= size
            if not 0 <= size <= self._item_limit or self._left < 0:
                limit = self._item_limit
                raise connection.broken(f"a string of {size} bytes in a nested reply; expected at most {limit}")
            text = bytes((await connection.stream.peek(size + 2))[:size])
            connection.stream.take(size + 2)
            return text
        if line[:1] != b"*" or not depth or not 0 <= size * _ITEM_BYTES <= self._left:
            raise connection.broken(f"{connection.shown(line)} in a nested reply; expected less, and less deep")
        return [await self.read(await connection.read_line(), depth - 1) for _ in range(size)]
