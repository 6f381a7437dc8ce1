"""Rules for records that are damaged, or that somebody else has stored: a miss, and nothing is removed for one look."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from ...errors import CorruptRecordError, UnsupportedOperationError
from ..subject import Subject, check_payload, release, rule

_NBYTES: Final = 4096
_RACES: Final = 8  # fewer than suspend removals


class DamageRules:
    """Part of `ConnectorConformance`."""

    limit: float

    @rule
    async def test_get_of_a_damaged_record_is_a_miss(self, subject: Subject) -> None:
        """Wrong bytes in a KV cache give wrong answers that nobody can trace, so `get` returns only verified chunks."""
        subject.requires("raw")
        key, other = subject.keys(2)
        await subject.put(other)
        for damage, record in await damaged_records(subject, key, other):
            await subject.write_raw(key, record)
            before = corrupt_reads(subject, "get")
            obj = await subject.connector.get(key)
            release([obj])
            assert obj is None, f"get() handed out a record with {damage}"
            assert corrupt_reads(subject, "get") == before + 1, f"a record with {damage} was not counted as corrupt"
        await subject.expect(other)
        await subject.put(key)
        await subject.expect(key)

    @rule
    async def test_batched_get_of_a_damaged_record_is_a_miss_in_its_own_slot(self, subject: Subject) -> None:
        """Only its own slot is a miss. The other chunks of the batch are returned in their slots."""
        subject.requires("raw")
        key, other, third = subject.keys(3)
        await _put_all(subject, [other, third])
        for damage, record in await damaged_records(subject, key, other):
            await subject.write_raw(key, record)
            before = corrupt_reads(subject, "batched_get")
            found = await subject.connector.batched_get([other, key, third])
            try:
                filled = [obj is not None for obj in found]
                assert filled == [True, False, True], f"a batch around a record with {damage} has the slots {filled}"
                check_payload(found[0], other, _NBYTES)
                check_payload(found[2], third, _NBYTES)
            finally:
                release(found)
            after = corrupt_reads(subject, "batched_get")
            assert after == before + 1, f"a record with {damage} in a batch was not counted as corrupt"

    @rule
    async def test_what_may_be_somebody_elses_is_never_removed_by_a_get(self, subject: Subject) -> None:
        """The store may be shared. One strange answer, which may be a proxy's page, must not empty it."""
        subject.requires("raw")
        key, other = subject.keys(2)
        await _put_all(subject, [key, other])
        foreign = await subject.read_raw(other)
        assert foreign is not None, "read_raw() of a stored key gave None"
        mine = await subject.read_raw(key)
        assert mine is not None, "read_raw() of a stored key gave None"
        newer = mine[:4] + bytes([mine[4] + 100]) + mine[5:]  # in this toolkit's frame, the version
        records = {
            "text": b"hello",
            "a page": b"<html>down</html>" * 99,
            "another key's": foreign,
            "of a newer release": newer,
        }
        for what, record in records.items():
            await subject.write_raw(key, record)
            release([await subject.connector.get(key)])
            release(await subject.connector.batched_get([key]))
            assert await subject.read_raw(key) == record, f"a get removed a record that is {what}"

    @rule
    async def test_a_good_record_that_replaced_a_damaged_one_is_never_removed(self, subject: Subject) -> None:
        """Between the look that finds the damage and the removal, another writer may have put the chunk again."""
        subject.requires("raw")
        key = subject.key()
        await subject.put(key, _NBYTES)
        record = await subject.read_raw(key)
        assert record is not None, "read_raw() of a stored key gave None"
        assert await _remove_damaged(subject, key) is False, "remove_damaged() of a record that verifies must be False"
        await subject.expect(key)
        await subject.write_raw(key, record[:-1])
        is_removed = await _remove_damaged(subject, key)
        is_gone = await subject.read_raw(key) is None
        assert is_removed == is_gone, (
            f"remove_damaged() said {is_removed}, and the record is {'' if is_gone else 'not '}gone"
        )
        for _ in range(_RACES):
            await subject.write_raw(key, record[:-1])
            with subject.chunk(key, _NBYTES) as obj:
                found, _ = await asyncio.gather(subject.connector.get(key), subject.connector.put(key, obj))
            release([found])
            assert await subject.read(key) is not None, "a get of the damaged record removed the good one put meanwhile"

    @rule
    async def test_damage_anywhere_in_a_large_record_is_a_miss(self, subject: Subject) -> None:
        """A checksum of the first page, or of the first piece, says nothing of the rest."""
        subject.requires("raw")
        key = subject.key()
        for nbytes in (200_000, 5 << 20):
            if nbytes > subject.capabilities.max_chunk_bytes:
                continue
            await subject.put(key, nbytes)
            record = await subject.read_raw(key)
            assert record is not None, "read_raw() of a stored key gave None"
            for position in (1 << 16, (1 << 17) + 1, len(record) // 2, len(record) - 5000):
                damaged = bytearray(record)
                damaged[position] ^= 0x01
                await subject.write_raw(key, bytes(damaged))
                obj = await subject.connector.get(key)
                release([obj])
                assert obj is None, (
                    f"get() handed out a chunk of {nbytes} bytes with a flipped bit in byte {position} of its record; "
                    "verify all of its bytes"
                )
            await subject.put(key, nbytes)
            await subject.expect(key, nbytes)


async def _remove_damaged(subject: Subject, key: str) -> bool:
    seen = CorruptRecordError("checksum", "seen before the record was replaced", removable=True)
    try:
        return await subject.connector.wrapped.remove_damaged(key, seen)
    except UnsupportedOperationError:
        return False  # the store has no step that removes only what was seen


async def _put_all(subject: Subject, keys: list[str]) -> None:
    for key in keys:
        await subject.put(key, _NBYTES)


async def damaged_records(subject: Subject, key: str, other: str) -> list[tuple[str, bytes]]:
    """Damaged records for `key`, each with a description of the damage."""
    await subject.put(key, _NBYTES)
    record = await subject.read_raw(key)
    foreign = await subject.read_raw(other)
    assert record is not None, "read_raw() of a stored key gave None"
    assert foreign is not None, "read_raw() of a stored key gave None"
    return list(_damages(record, foreign))


def _damages(record: bytes, foreign: bytes) -> Iterator[tuple[str, bytes]]:
    last = len(record) - 1
    # In this toolkit's frame: magic, flags, lengths, key digest, dimensions; the payload's first, middle and last
    # byte; the trailer. The version at 4 is left alone: a record of a newer release is a miss, and stays.
    for position in (0, 5, 6, 9, 20, 56, last - 8 - _NBYTES + 1, len(record) // 2, last - 8, last):
        if 0 <= position <= last:
            damaged = bytearray(record)
            damaged[position] ^= 0x10
            yield f"a flipped bit in byte {position} of {len(record)}", bytes(damaged)
    yield "its last byte cut off", record[:-1]
    yield "one byte too many", record + b"\0"
    yield "its second half cut off", record[: len(record) // 2]
    yield "no bytes at all", b""
    yield "the bytes of another key's", foreign
    yield "garbage for bytes", b"\xff" * len(record)
    yield "text for bytes", b"hello"


def corrupt_reads(subject: Subject, operation: str) -> int:
    """How many corrupt records the operation counted, from `CorruptRecordError` or `discard_corrupt`."""
    statistics = subject.connector.statistics().get(operation)
    if statistics is None:
        return 0
    return sum(count for reason, count in statistics.misses.items() if reason.startswith("corrupt"))
