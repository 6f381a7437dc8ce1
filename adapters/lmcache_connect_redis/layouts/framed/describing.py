"""What a server says of the chunks of `layout=connect`, without their payloads: `describe_chunks`.

A chunk that is one string has its header at the beginning and its checksum at the end, which GETRANGE gives. Of the
fields of a hash no command gives a part, so a script does. Where the server runs no scripts for this user, the header
and the checksums of such chunks stay unknown.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import KeyFacts, PartSum
from lmcache_connect.errors import FrameError, WrongTypeError
from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect.record import (
    MAX_HEADER_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    SpreadChunkError,
    StripePlan,
    decode_header,
)

from ...protocol.questions import Answer, Questions, number_of, redirect_among, text_of
from ...protocol.redirects import RedirectedError
from ...protocol.replies import encode_command
from ..common_facts import COUNT, CommonFacts, questions_about

Described = KeyFacts | RedirectedError | None

WHOLE: Final = "one record"
STRIPED: Final = "a hash of pieces"
SPREAD: Final = "an index; the pieces lie on several servers"

_ENDS: Final = b"""
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record then return false end
local header = 0
if #record >= 8 then header = string.byte(record, 7) + 256 * string.byte(record, 8) end
header = math.min(header, tonumber(ARGV[2]), #record)
return #record .. ':' .. string.sub(record, 1, header) .. string.sub(record, -8)
"""
"""Returns the length of a field, ':', its header and its last 8 bytes."""

_LIMIT: Final = MAX_HEADER_BYTES + TRAILER_BYTES + 24
_TRAILER: Final = struct.Struct("<Q")
_PIECES_AT_A_TIME: Final = 64


async def describe_chunks(questions: Questions, names: Sequence[str], store: str, *, records: bool) -> list[Described]:
    """Returns for each name the facts of its chunk, None for a missing one, or what named another node.

    Raises:
        StoreError: the server has refused to say whether a chunk is there.
    """
    asked: list[list[bytes]] = []
    for key in [name.encode() for name in names]:
        commands = questions_about(key)
        if records:
            commands += [
                encode_command(b"STRLEN", key),
                encode_command(b"GETRANGE", key, b"0", b"%d" % (MAX_HEADER_BYTES - 1)),
                encode_command(b"GETRANGE", key, b"%d" % -TRAILER_BYTES, b"-1"),
            ]
        asked.append(commands)
    answers = await questions.ask([command for commands in asked for command in commands], MAX_HEADER_BYTES)
    found: list[Described] = []
    at = 0
    for name, commands in zip(names, asked, strict=True):
        share = answers[at : at + len(commands)]
        at += len(commands)
        found.append(await _described(questions, name, store, share, records=records))
    return found


async def _described(questions: Questions, name: str, store: str, answers: list[Answer], *, records: bool) -> Described:
    if (redirected := redirect_among(answers)) is not None:
        return redirected
    common = CommonFacts.of(answers[:COUNT])
    is_there = common.is_there
    if is_there is None:
        [answer] = await questions.ask([encode_command(b"EXISTS", name.encode())], 0)
        if isinstance(answer, RedirectedError):
            return answer
        if isinstance(answer, StoreError):
            raise answer
        is_there = answer == 1
    if not is_there:
        return None
    if not records:
        return _facts(common, store, stored=common.memory or await _stored_bytes(questions, name))
    size, start, end = answers[COUNT:]
    if isinstance(size, WrongTypeError):
        return await _described_pieces(questions, name, store, common)
    if isinstance(size, StoreError) or isinstance(start, StoreError):
        return _facts(common, store, stored=common.memory)
    return _of_record(name, store, common, number_of(size) or 0, text_of(start), text_of(end))


def _of_record(name: str, store: str, common: CommonFacts, size: int, start: bytes, end: bytes) -> Described:
    """Returns the facts of a chunk that is one string of `size` bytes, by how it starts and ends."""
    stored = common.memory or size
    try:
        header = decode_header(start, name, size)
    except SpreadChunkError as index:
        metadata, pieces = index.metadata, index.plan.pieces
        return _facts(common, store, stored=stored, form=SPREAD, metadata=metadata, pieces=pieces)
    except FrameError as error:
        return _facts(common, store, stored=stored, form=WHOLE, problem=str(error))
    if header.is_striped:
        return _facts(common, store, stored=stored, form=WHOLE, problem="a piece of a chunk, by itself")
    sums = (PartSum(0, header.payload_length, _TRAILER.unpack(end)[0]),) if _has_sum(header, end) else ()
    return _facts(common, store, stored=stored, form=WHOLE, metadata=header.metadata, sums=sums)


async def _described_pieces(questions: Questions, name: str, store: str, common: CommonFacts) -> Described:
    """Returns the facts of a chunk that is a hash, or of another program's value."""
    key = name.encode()
    [count] = await questions.ask([encode_command(b"HLEN", key)], 0)
    if isinstance(count, RedirectedError):
        return count
    if isinstance(count, WrongTypeError):
        return _facts(common, store, stored=common.memory, problem="another program's value: no string and no hash")
    fields = number_of(count) or 0
    [first] = await questions.ask([_ends_of(key, 0)], _LIMIT)
    if isinstance(first, StoreError):  # no scripts here
        return _facts(common, store, stored=common.memory, form=STRIPED, pieces=max(fields, 1))
    header, problem = _piece_of(name, first, 0, None)
    if header is None or header.plan is None:
        gone = (0,) if first == b"" else ()
        pieces = max(fields, 1)
        return _facts(common, store, stored=common.memory, form=STRIPED, pieces=pieces, missing=gone, problem=problem)
    plan = header.plan
    problems = [problem] if problem else []
    missing: list[int] = []
    sums: list[PartSum] = []
    for begin in range(0, plan.pieces, _PIECES_AT_A_TIME):
        some = range(begin, min(begin + _PIECES_AT_A_TIME, plan.pieces))
        for index, ends in zip(
            some, await questions.ask([_ends_of(key, index) for index in some], _LIMIT), strict=True
        ):
            if ends == b"":
                missing += (index,)
                continue
            piece, wrong = _piece_of(name, ends, index, plan)
            if wrong:
                problems.append(f"piece {index}: {wrong}")
            elif piece is not None and piece.has_checksum:
                sums.append(PartSum(*plan.bounds(index), _TRAILER.unpack(text_of(ends)[-TRAILER_BYTES:])[0]))
    if fields > plan.pieces:
        problems.append(f"{fields} fields for {plan.pieces} pieces")
    return _facts(
        common,
        store,
        stored=common.memory,
        form=STRIPED,
        metadata=header.metadata,
        pieces=plan.pieces,
        missing=tuple(missing),
        sums=tuple(sums) if len(sums) == plan.pieces else (),
        problem="; ".join(problems),
    )


def _piece_of(name: str, ends: Answer, index: int, plan: StripePlan | None) -> tuple[FrameHeader | None, str]:
    """Returns the header of a piece, and what is wrong with it."""
    if isinstance(ends, StoreError):
        return None, str(ends)
    size, _, rest = text_of(ends).partition(b":")
    if not size.isdigit():
        return None, "it is missing"
    try:
        header = decode_header(rest[:-TRAILER_BYTES], name, int(size))
    except FrameError as error:  # an index in a field is none
        return None, str(error)
    if header.plan is None or header.index != index or (plan is not None and header.plan != plan):
        return None, "it is of another put, or of another place"
    return header, ""


def _facts(
    common: CommonFacts,
    store: str,
    *,
    stored: int | None,
    form: str = "",
    metadata: ChunkMetadata | None = None,
    pieces: int = 1,
    missing: tuple[int, ...] = (),
    sums: tuple[PartSum, ...] = (),
    problem: str = "",
) -> KeyFacts:
    return KeyFacts(
        nbytes=None if metadata is None else metadata.nbytes,
        stored_bytes=stored,
        ttl=common.ttl,
        idle=common.idle,
        form=form,
        pieces=pieces,
        missing=missing,
        server=store,
        metadata=metadata,
        sums=sums,
        problem=problem,
    )


async def _stored_bytes(questions: Questions, name: str) -> int | None:
    """Returns the bytes of a key's values, for a server that does not tell its memory."""
    key = name.encode()
    [size] = await questions.ask([encode_command(b"STRLEN", key)], 0)
    if not isinstance(size, WrongTypeError):
        return number_of(size)
    [count] = await questions.ask([encode_command(b"HLEN", key)], 0)
    if not (fields := number_of(count)):
        return None
    ends = [encode_command(b"HSTRLEN", key, b"%d" % index) for index in (0, fields - 1)]
    first, last = await questions.ask(ends, 0)
    if not isinstance(first, int) or not isinstance(last, int):
        return None
    return (fields - 1) * first + last  # all pieces but the last have one length


def _ends_of(key: bytes, index: int) -> bytes:
    return encode_command(b"EVAL", _ENDS, b"1", key, b"%d" % index, b"%d" % MAX_HEADER_BYTES)


def _has_sum(header: FrameHeader, end: bytes) -> bool:
    return header.has_checksum and len(end) == TRAILER_BYTES
