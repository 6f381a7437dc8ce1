"""Nested replies: arrays of arrays, strings and numbers, read within bounds."""

from __future__ import annotations

from typing import Final, TypeAlias

from .connection import Connection

Tree: TypeAlias = "bytes | int | list[Tree] | None"
"""A reply: a string, a number, an array of replies, or nothing."""

_ITEM_BYTES: Final = 16
"""What an item counts besides the bytes of its string."""


async def read_nested(connection: Connection, limit: int, item_limit: int, depth: int) -> Tree:
    """Takes and returns a reply of at most `depth` arrays inside each other, and about `limit` bytes in all.

    `item_limit`: bytes of each string, at most `SCRATCH_BYTES`.

    Raises:
        StoreError: the typed error of an error reply. StoreProtocolError for a reply beyond the bounds: the stream is
            closed.
    """
    line = await connection.read_line()
    if line[:1] == b"-":
        raise connection.unexpected(line, "an array")
    left = [limit]
    tree = await _read(connection, line, left, item_limit, depth)
    connection.pending -= 1
    return tree


async def _read(connection: Connection, line: bytes, left: list[int], item_limit: int, depth: int) -> Tree:
    left[0] -= _ITEM_BYTES
    if line[:1] == b":":
        return connection.number(line)
    if line[:1] == b"+":
        return line[1:]
    size = connection.number(line)
    if size == -1 and line[:1] in b"$*":
        return None
    if line[:1] == b"$":
        left[0] -= size
        if not 0 <= size <= item_limit or left[0] < 0:
            raise connection.broken(f"a string of {size} bytes in a nested reply; expected at most {item_limit}")
        text = bytes((await connection.stream.peek(size + 2))[:size])
        connection.stream.take(size + 2)
        return text
    if line[:1] != b"*" or not depth or not 0 <= size * _ITEM_BYTES <= left[0]:
        raise connection.broken(f"{connection.shown(line)} in a nested reply; expected less, and less deep")
    return [await _read(connection, await connection.read_line(), left, item_limit, depth - 1) for _ in range(size)]
