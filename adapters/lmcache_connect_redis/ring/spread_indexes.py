"""The commands about the indexes of spread chunks, over one connection. See `record/spread.py`.

GETRANGE is what finds out that an index stands under a name. A server that lacks it, or does not let this user, costs
the removal of pieces: those that are left expire by the URL's `ttl`, or are found when keys are cleared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from lmcache_connect import AuthenticationError
from lmcache_connect.errors import FrameError, StoreCommandError, WrongTypeError
from lmcache_connect.record import (
    FIXED_HEADER_BYTES,
    INDEX_BYTES,
    MAX_HEADER_BYTES,
    SpreadChunkError,
    SpreadPlan,
    decode_header,
    spread_plan,
)
from lmcache_connect.streaming import NAMES_AT_A_TIME

from ..layouts.framed.second_look import Damage
from ..protocol.connection import Connection
from ..protocol.replies import encode_command, encode_expiry

T = TypeVar("T")

Plans = dict[str, SpreadPlan]
"""By the name of a spread chunk, what its pieces are."""

_LAST_OF_START: Final = b"%d" % (FIXED_HEADER_BYTES - 1)


async def put_indexes(connection: Connection, indexes: Sequence[tuple[str, bytes]], ttl_ms: int | None) -> Plans:
    """Stores indexes under their names. Returns what they have replaced, where that was an index as well.

    The two commands for a name are sent together. A put of another client that comes between them leaves its pieces.
    """
    replaced: Plans = {}
    expiry = encode_expiry(ttl_ms)
    count = 3 + 2 * (ttl_ms is not None)
    for page in _pages(indexes):
        commands = [
            b"%b*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b"
            % (_get_start(connection, name), count, len(name.encode()), name.encode(), len(record), record, expiry)
            for name, record in page
        ]
        await connection.send(b"".join(commands), replies=_replies(connection, len(page), 1))
        for name, _ in page:
            await _read_start(connection, name, replaced)
            await connection.read_ok()
    return replaced


async def remove_names(connection: Connection, names: Sequence[str], command: str) -> tuple[list[bool], Plans]:
    """Removes names. Returns for each whether it was there, and what has to be removed besides: pieces."""
    flags: list[bool] = []
    found: Plans = {}
    for page in _pages(names):
        commands = [_get_start(connection, name) + encode_command(command.encode(), name.encode()) for name in page]
        await connection.send(b"".join(commands), replies=_replies(connection, len(page), 1))
        for name in page:
            await _read_start(connection, name, found)
            flags.append(await connection.read_integer() > 0)
    return flags, found


async def read_plans(connection: Connection, names: Sequence[str], *, is_needed: bool = False) -> Plans:
    """Returns what the pieces of those chunks are that are spread.

    Raises:
        AuthenticationError, StoreCommandError: it `is_needed`, and the server lacks GETRANGE, or the user may not.
    """
    if is_needed and connection.traits.knows_little:
        raise StoreCommandError(connection.store, "a small proxy is not asked which chunks are spread")
    found: Plans = {}
    for page in _pages(names):
        if replies := _replies(connection, len(page), 0):
            await connection.send(b"".join([_get_start(connection, name) for name in page]), replies=replies)
        for name in page:
            await _read_start(connection, name, found, is_needed=is_needed)
    return found


async def keep_names(connection: Connection, names: Sequence[str]) -> bool:
    """Takes the time to live from names. Returns False where the server refuses that: they will expire."""
    if connection.traits.knows_little:
        return False
    is_kept = True
    for page in _pages(names):
        commands = [encode_command(b"PERSIST", name.encode()) for name in page]
        await connection.send(b"".join(commands), replies=len(page))
        for _ in page:
            try:
                await connection.read_integer()
            except (AuthenticationError, StoreCommandError):
                if connection.is_suspect:
                    raise
                is_kept = False
    return is_kept


async def read_index(connection: Connection, name: str) -> tuple[SpreadPlan, bytes] | None:
    """Returns the plan of a spread chunk, and the command that removes its index if the server holds what was seen.

    None where no valid index stands under the name.
    """
    last = b"%d" % INDEX_BYTES
    await connection.send(encode_command(b"GETRANGE", name.encode(), b"0", last))
    try:
        record = await connection.read_value(INDEX_BYTES + 1)
    except WrongTypeError:
        return None
    plan = index_plan(name, record)
    return None if plan is None else (plan, removal_of_index(name, record))


def index_plan(name: str, record: bytes) -> SpreadPlan | None:
    """Returns the plan that an index says. None for any other record."""
    try:
        decode_header(memoryview(record)[:MAX_HEADER_BYTES], name, len(record))
    except SpreadChunkError as error:
        return error.plan
    except FrameError:
        pass
    return None


def removal_of_index(name: str, record: bytes) -> bytes:
    """Returns the command that removes an index, if it still stands under its name. Its reply is 1 or 0."""
    return Damage(b"", hashlib.sha1(record, usedforsecurity=False).hexdigest()).encode_removal(name)


def _get_start(connection: Connection, name: str) -> bytes:
    """Returns the question for the start of a record. A small proxy is not asked: it may close the connection."""
    if connection.traits.knows_little:
        return b""
    return encode_command(b"GETRANGE", name.encode(), b"0", _LAST_OF_START)


async def _read_start(connection: Connection, name: str, found: Plans, *, is_needed: bool = False) -> None:
    if connection.traits.knows_little:
        return
    try:
        start = await connection.read_value(FIXED_HEADER_BYTES)
    except WrongTypeError:
        return  # a striped chunk
    except (AuthenticationError, StoreCommandError):
        if is_needed or connection.is_suspect:
            raise
        return
    plan = spread_plan(start, name)
    if plan is not None:
        found[name] = plan


def _replies(connection: Connection, names: int, others: int) -> int:
    """Returns how many replies come to the questions for so many names, with `others` more to each."""
    return names * (others + (not connection.traits.knows_little))


def _pages(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + NAMES_AT_A_TIME] for start in range(0, len(items), NAMES_AT_A_TIME))
