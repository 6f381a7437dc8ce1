"""Rules for the store as a whole, one per capability: removing, listing, expiring, sharing, and damaged records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from ...errors import CorruptRecordError, UnsupportedOperationError
from ..subject import Subject, check_payload, release, rule

_NBYTES: Final = 4096
_TTL: Final = 0.15
_RACES: Final = 8  # fewer than suspend removals


class StoreRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float

    @rule
    async def test_remove_tells_whether_the_key_was_there_and_takes_it_away(self, subject: Subject) -> None:
        """Operators clear a tenant with it, and count what was removed."""
        subject.requires("remove")
        key, other = subject.keys(2)
        assert await subject.connector.remove(key) is False, "remove() of a missing key must be False"
        await subject.put(key)
        await subject.put(other)
        assert await subject.connector.remove(key) is True, "remove() of a stored key must be True"
        assert await subject.connector.exists(key) is False, "a removed key still exists"
        assert await subject.read(key) is None, "a removed key still has a chunk"
        assert await subject.connector.remove(key) is False, "remove() of a removed key must be False"
        await subject.expect(other)

    @rule
    async def test_list_names_exactly_the_keys_that_are_stored(self, subject: Subject) -> None:
        """Each key is listed once, exactly as it was given, so that `get` finds it."""
        subject.requires("list")
        keys = [*subject.keys(5), *(subject.own(f"{subject.namespace}{tail}") for tail in ("*", "[x]", " /ä%41"))]
        await _put_all(subject, keys)
        _check_names(await _own_names(subject), keys, "list()")
        if subject.capabilities.remove:
            await subject.connector.remove(keys.pop())
            _check_names(await _own_names(subject), keys, "list() after a remove()")

    @rule
    async def test_scan_names_each_key_with_the_prefix_once(self, subject: Subject) -> None:
        """The prefix is plain text: `*`, `?`, `[` and `\\` have no special meaning."""
        subject.requires("scan")
        space = subject.namespace
        for sign in ("*", "?", "[a-z]", "\\", "\\*", "^", "%", "_", "ä"):
            keys = [subject.own(f"{space}{sign}{index}") for index in range(3)]
            decoys = [subject.own(f"{space}{decoy}") for decoy in ("x0", "xyz", "", f"-{sign}")]
            await _put_all(subject, [*keys, *decoys])
            for connector in (subject.connector.wrapped, subject.connector):
                names = [name async for name in connector.scan(f"{space}{sign}")]
                if connector is not subject.connector:
                    names = sorted(set(names))  # a store's cursor may name a key twice
                _check_names(names, keys, f"scan({space + sign!r})")

    @rule
    async def test_scan_without_a_prefix_names_every_key(self, subject: Subject) -> None:
        """All keys are named, also where there are more than one page of the store holds."""
        subject.requires("scan")
        keys = subject.keys(50)
        await _put_all(subject, keys)
        names = [name async for name in subject.connector.scan() if name.startswith(subject.namespace)]
        _check_names(names, keys, "scan()")

    @rule
    async def test_ping_answers_zero(self, subject: Subject) -> None:
        """`ping` asks the store: without that, a health check says nothing."""
        subject.requires("ping")
        assert subject.connector.support_ping() is True, "support_ping() must be True where ping() asks the store"
        answer = await subject.connector.ping()
        assert answer == 0, f"ping() answered {answer!r}; expected 0"

    @rule
    async def test_a_chunk_is_there_until_its_time_to_live_has_passed(self, subject: Subject) -> None:
        """A cache without expiry fills its store."""
        subject.requires("ttl")
        key, kept = subject.keys(2)
        await subject.put(kept)
        connector = subject.manager.create_connector(subject.ttl_url(_TTL))
        started = time.monotonic()
        with subject.chunk(key) as obj:
            await connector.put(key, obj)
        there = await connector.exists(key)
        assert there or time.monotonic() - started >= _TTL, "a chunk is gone before its time"
        while await connector.exists(key):
            assert time.monotonic() - started < _TTL + self.ends_within, f"a chunk outlives its {_TTL} s"
            await asyncio.sleep(0.01)  # the store gives no sign when it forgets
        assert await connector.get(key) is None, "an expired chunk can still be read"
        await subject.expect(kept)

    @rule
    async def test_chunks_outlive_their_connector_and_are_seen_by_others(self, subject: Subject) -> None:
        """The next process finds what this one stored, which is the purpose of a remote store."""
        subject.requires("shared")
        first, second = subject.keys(2)
        other = await subject.another()
        assert other is not subject.connector, "make_connector() must make a new connector each time"
        await subject.put(first)
        check_payload(await other.get(first), first, _NBYTES)
        with subject.chunk(second) as obj:
            await other.put(second, obj)
        await other.close()
        await subject.expect(second)

    @rule
    async def test_get_of_a_damaged_record_is_a_miss(self, subject: Subject) -> None:
        """Wrong bytes in a KV cache give wrong answers that nobody can trace, so `get` returns only verified chunks."""
        subject.requires("raw")
        key, other = subject.keys(2)
        await subject.put(other)
        for damage, record in await _damaged_records(subject, key, other):
            await subject.write_raw(key, record)
            before = _corrupt_reads(subject, "get")
            obj = await subject.connector.get(key)
            release([obj])
            assert obj is None, f"get() handed out a record with {damage}"
            assert _corrupt_reads(subject, "get") == before + 1, f"a record with {damage} was not counted as corrupt"
        await subject.expect(other)
        await subject.put(key)
        await subject.expect(key)

    @rule
    async def test_batched_get_of_a_damaged_record_is_a_miss_in_its_own_slot(self, subject: Subject) -> None:
        """Only its own slot is a miss. The other chunks of the batch are returned in their slots."""
        subject.requires("raw")
        key, other, third = subject.keys(3)
        await _put_all(subject, [other, third])
        for damage, record in await _damaged_records(subject, key, other):
            await subject.write_raw(key, record)
            before = _corrupt_reads(subject, "batched_get")
            found = await subject.connector.batched_get([other, key, third])
            try:
                filled = [obj is not None for obj in found]
                assert filled == [True, False, True], f"a batch around a record with {damage} has the slots {filled}"
                check_payload(found[0], other, _NBYTES)
                check_payload(found[2], third, _NBYTES)
            finally:
                release(found)
            after = _corrupt_reads(subject, "batched_get")
            assert after == before + 1, f"a record with {damage} in a batch was not counted as corrupt"

    @rule
    async def test_what_may_be_somebody_elses_is_never_removed_by_a_get(self, subject: Subject) -> None:
        """The store may be shared. One strange answer, which may be a proxy's page, must not empty it."""
        subject.requires("raw")
        key, other = subject.keys(2)
        await _put_all(subject, [key, other])
        foreign = await subject.read_raw(other)
        assert foreign is not None, "read_raw() of a stored key gave None"
        for what, record in (("text", b"hello"), ("a page", b"<html>down</html>" * 99), ("another key's", foreign)):
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


async def _remove_damaged(subject: Subject, key: str) -> bool:
    seen = CorruptRecordError("checksum", "seen before the record was replaced", removable=True)
    try:
        return await subject.connector.wrapped.remove_damaged(key, seen)
    except UnsupportedOperationError:
        return False  # the store has no step that removes only what was seen


async def _put_all(subject: Subject, keys: list[str]) -> None:
    for key in keys:
        await subject.put(key, _NBYTES)


async def _own_names(subject: Subject) -> list[str]:
    """What `list()` returns, without the keys of others, since the store may be shared."""
    return [name for name in await subject.connector.list() if name.startswith(subject.namespace)]


def _check_names(names: list[str], keys: list[str], what: str) -> None:
    missing = sorted(set(keys) - set(names))
    invented = sorted(set(names) - set(keys))
    assert not missing, f"{what} does not name {missing}"
    assert not invented, f"{what} names {invented}, which it should not"
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"{what} names {twice} more than once"


async def _damaged_records(subject: Subject, key: str, other: str) -> list[tuple[str, bytes]]:
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


def _corrupt_reads(subject: Subject, operation: str) -> int:
    """How many corrupt records the operation counted, from `CorruptRecordError` or `discard_corrupt`."""
    statistics = subject.connector.statistics().get(operation)
    if statistics is None:
        return 0
    return sum(count for reason, count in statistics.misses.items() if reason.startswith("corrupt"))
