"""The second look at a damaged chunk, and the command that removes it if the server holds what was seen.

The server compares. So a chunk that is damaged only on its way, or that another writer replaces meanwhile, stays.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from lmcache_connect import CorruptRecordError
from lmcache_connect.errors import WrongTypeError
from lmcache_connect.record import StripePlan, decode_piece, decode_record

from ...protocol.connection import Connection
from ...protocol.replies import encode_command

MAX_LOOK_BYTES: Final = 64 << 20
"""A longer value is not looked at again, and stays. It is received into memory beside the arena."""

_REMOVE_SEEN: Final = b"""
local is_hash = ARGV[1] ~= ''
if redis.call('TYPE', KEYS[1]).ok ~= (is_hash and 'hash' or 'string') then return 0 end
local found
if is_hash then found = redis.call('HGET', KEYS[1], ARGV[1]) else found = redis.call('GET', KEYS[1]) end
if (found and redis.sha1hex(found) or '') ~= ARGV[2] then return 0 end
return redis.call('UNLINK', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class Damage:
    """What does not verify: a field of a hash, or the string where `field` is empty.

    `sha1` is the hexadecimal SHA-1 of its bytes, which is what the server can compute. Empty for a missing field.
    """

    field: bytes
    sha1: str

    def encode_removal(self, name: str) -> bytes:
        """Returns the command that removes `name` if it holds this. Its reply is how many keys were removed."""
        return encode_command(b"EVAL", _REMOVE_SEEN, b"1", name.encode(), self.field, self.sha1.encode())


async def look_again(connection: Connection, name: str) -> Damage | None:
    """Reads a chunk, and returns what of it is damaged and recognisably this toolkit's. None if nothing is."""
    try:
        whole = await _read(connection, encode_command(b"GET", name.encode()))
    except WrongTypeError:
        return await _look_at_pieces(connection, name)
    if whole is None:
        return None
    try:
        decode_record(name, whole)
    except CorruptRecordError as error:
        return Damage(b"", _sha1(whole)) if error.removable else None
    return None


async def _look_at_pieces(connection: Connection, name: str) -> Damage | None:
    plan: StripePlan | None = None
    index = 0
    while plan is None or index < plan.pieces:
        field = b"%d" % index
        try:
            piece = await _read(connection, encode_command(b"HGET", name.encode(), field))
        except WrongTypeError:
            return None  # another program's value, or a chunk that has been replaced
        if piece is None:
            return Damage(field, "") if plan is not None else None
        try:
            header, _ = decode_piece(name, piece)
        except CorruptRecordError as error:
            return Damage(field, _sha1(piece)) if error.removable else None
        if header.plan is None or header.index != index or (plan is not None and header.plan != plan):
            return Damage(field, _sha1(piece))
        plan = header.plan
        index += 1
    return None


async def _read(connection: Connection, command: bytes) -> bytes | None:
    await connection.send(command)
    size = connection.number(await connection.expect(b"$", "a value"))
    if size == -1:
        connection.pending -= 1
        return None
    if not 0 <= size <= MAX_LOOK_BYTES:
        raise connection.broken(f"a value of {size} bytes; a second look takes at most {MAX_LOOK_BYTES}")
    value = bytearray(size)
    await connection.stream.receive_into(memoryview(value))
    if bytes(await connection.stream.peek(2)) != b"\r\n":
        raise connection.broken("a value does not end with CR LF")
    connection.stream.take(2)
    connection.pending -= 1
    return bytes(value)


def _sha1(value: bytes) -> str:
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()
