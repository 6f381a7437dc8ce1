"""Rules for memory of callers: exactly its regions are filled or read, and a True is true."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ...contract import RemoteConnector
from ...errors import InvalidArgumentError
from ...metadata import ChunkMetadata, MemoryFormat
from ..scattered import Scattered
from ..subject import LARGEST, Subject, check_payload, is_same, payload, rule
from .damage import corrupt_reads, damaged_records

_NBYTES: Final = 4096
_SIZES: Final = (1, 2, 63, 4096, 100_001, (1 << 20) + 7)
_SHAPE: Final = (2, 4, 16, 16)


class CallerMemoryRules:
    """Part of `ConnectorConformance`. They ask the author's own connector as well, `connector.wrapped`."""

    limit: float

    @rule
    async def test_get_into_fills_exactly_the_regions_of_its_caller(self, subject: Subject) -> None:
        """Engines keep keys and values apart, and each layer, too. Between them lies what belongs to other requests."""
        for nbytes in _sizes(subject):
            key = subject.key(str(nbytes))
            await subject.put(key, nbytes)
            for connector in (subject.connector.wrapped, subject.connector):
                theirs = Scattered(nbytes)
                has_come = await connector.get_into(key, theirs.regions)
                assert has_come is True, f"get_into() of a stored chunk of {nbytes} bytes gave {has_come!r}, not True"
                _check_received(theirs, key)
                whole = bytearray(nbytes)
                assert await connector.get_into(key, whole) is True, "get_into() of a stored chunk gave not True"
                assert is_same(whole, payload(key, nbytes)), "get_into() filled one buffer with other bytes"

    @rule
    async def test_put_from_stores_the_regions_of_its_caller_one_after_the_other(self, subject: Subject) -> None:
        """What one engine gathers from its layers, another one may get as one chunk."""
        for nbytes in _sizes(subject):
            for index, connector in enumerate((subject.connector.wrapped, subject.connector)):
                key = subject.key(f"{nbytes}-{index}")
                theirs = Scattered(nbytes)
                theirs.fill(key)
                is_stored = await connector.put_from(key, theirs.regions)
                assert is_stored is True, f"put_from() of {nbytes} bytes gave {is_stored!r}, not True"
                await subject.expect(key, nbytes)
                assert theirs.holds(key), "put_from() changed its caller's memory"
                assert theirs.are_gaps_untouched(), "put_from() wrote between its caller's regions"

    @rule
    async def test_batched_get_into_answers_for_each_key_in_its_place(self, subject: Subject) -> None:
        """An engine uses what a True stands for. An answer in the wrong place is a wrong chunk."""
        a, b, c = subject.keys(3)
        hole = subject.key("hole")
        for key in (a, b, c):
            await subject.put(key)
        for batch in ((a, b, c), (hole, a, b, c), (a, hole, b), (a, b, hole), (hole, hole, a), (c, a, c), (hole,)):
            for connector in (subject.connector.wrapped, subject.connector):
                theirs = [Scattered(_NBYTES) for _ in batch]
                found = await connector.batched_get_into(list(batch), [item.regions for item in theirs])
                _check_flags("batched_get_into", found, [key != hole for key in batch], connector)
                for item, key in zip(theirs, batch, strict=True):
                    if key != hole:
                        _check_received(item, key)

    @rule
    async def test_batched_put_from_stores_every_pair_of_any_size(self, subject: Subject) -> None:
        """Each chunk is stored under its own key, and each is answered for."""
        for index, connector in enumerate((subject.connector.wrapped, subject.connector)):
            keys = subject.keys(20, str(index))
            theirs = [Scattered(100 + 1000 * place) for place in range(len(keys))]
            for key, item in zip(keys, theirs, strict=True):
                item.fill(key)
            stored = await connector.batched_put_from(keys, [item.regions for item in theirs])
            _check_flags("batched_put_from", stored, [True] * len(keys), connector)
            for key, item in zip(keys, theirs, strict=True):
                await subject.expect(key, item.nbytes)

    @rule
    async def test_a_batch_without_keys_gives_no_answers(self, subject: Subject) -> None:
        """That is not an error."""
        for connector in (subject.connector.wrapped, subject.connector):
            _check_flags("batched_get_into", await connector.batched_get_into([], []), [], connector)
            _check_flags("batched_put_from", await connector.batched_put_from([], []), [], connector)

    @rule
    async def test_get_into_of_another_length_is_false(self, subject: Subject) -> None:
        """A chunk of other tokens, or of another layout, must not half fill what an engine then computes with."""
        key, other = subject.keys(2)
        await subject.put(key)
        await subject.put(other)
        for nbytes in (1, _NBYTES // 2, _NBYTES - 1, _NBYTES + 1, 2 * _NBYTES):
            for connector in (subject.connector.wrapped, subject.connector):
                wrong, right = Scattered(nbytes), Scattered(_NBYTES)
                found = await connector.batched_get_into([key, other], [wrong.regions, right.regions])
                assert list(found) == [False, True], (
                    f"a chunk of {_NBYTES} bytes, asked for with {nbytes}, and one with {_NBYTES} gave {found}"
                )
                _check_received(right, other)
                assert wrong.are_gaps_untouched(), "a chunk of another length was written beside its caller's regions"

    @rule
    async def test_get_into_gives_only_what_its_metadata_describes(self, subject: Subject) -> None:
        """The same bytes as another dtype, shape or format are other numbers."""
        key, plain = subject.keys(2)
        stored = ChunkMetadata.of(_SHAPE, "half", MemoryFormat.KV_2LTD)
        theirs = Scattered(stored.nbytes)
        theirs.fill(key)
        others = {
            "another dtype": ChunkMetadata.of(_SHAPE, "bfloat16", MemoryFormat.KV_2LTD),
            "another shape": ChunkMetadata.of((2, 2, 32, 16), "half", MemoryFormat.KV_2LTD),
            "another format": ChunkMetadata.of(_SHAPE, "half", MemoryFormat.UNDEFINED),
            "other tensor groups": ChunkMetadata.of([(1, 4, 16, 16)] * 2, "half", MemoryFormat.KV_2LTD),
        }
        for connector in (subject.connector.wrapped, subject.connector):
            assert await connector.put_from(key, theirs.regions, stored) is True, (
                "put_from() with metadata gave not True"
            )
            obj = await connector.get(key)
            found = obj.metadata if obj is not None else None
            check_payload(obj, key, stored.nbytes)
            assert found == stored, f"put_from() with {stored} has stored {found}"
            for expected in (stored, None):
                has_come = await connector.get_into(key, Scattered(stored.nbytes).regions, expected)
                assert has_come is True, f"get_into() of {stored}, asked for as {expected}, gave {has_come!r}"
            for what, expected in others.items():
                has_come = await connector.get_into(key, Scattered(stored.nbytes).regions, expected)
                assert has_come is False, f"get_into() gave {has_come!r} for a chunk of {what} than was asked for"
            assert await connector.put_from(plain, theirs.regions) is True, "put_from() gave not True"
            obj = await connector.get(plain)
            assert obj is not None, "what put_from() has stored is a miss"
            with obj:
                expected = ChunkMetadata.of((stored.nbytes,), "uint8")
                assert obj.metadata == expected, f"put_from() without metadata has stored {obj.metadata}, not uint8"

    @rule
    async def test_get_into_of_a_damaged_record_is_false_in_its_own_place(self, subject: Subject) -> None:
        """The engine computes with what it was told to be there. Only verified bytes are."""
        subject.requires("raw")
        key, other, third = subject.keys(3)
        for good in (other, third):
            await subject.put(good)
        for damage, record in await damaged_records(subject, key, other):
            for operation in ("get_into", "batched_get_into"):
                await subject.write_raw(key, record)
                before = corrupt_reads(subject, operation)
                theirs = [Scattered(_NBYTES) for _ in range(3)]
                if operation == "get_into":
                    flag = await subject.connector.get_into(key, theirs[1].regions)
                    assert flag is False, f"get_into() gave {flag!r} for a record with {damage}"
                else:
                    found = await subject.connector.batched_get_into(
                        [other, key, third], [item.regions for item in theirs]
                    )
                    assert found == [True, False, True], f"a batch around a record with {damage} gave {found}"
                    _check_received(theirs[0], other)
                    _check_received(theirs[2], third)
                assert theirs[1].are_gaps_untouched(), f"a record with {damage} was written beside its caller's regions"
                after = corrupt_reads(subject, operation)
                assert after == before + 1, f"{operation}() of a record with {damage} was not counted as corrupt"
        await subject.put(key)
        theirs_again = Scattered(_NBYTES)
        assert await subject.connector.get_into(key, theirs_again.regions) is True, (
            "a record that was put again is False"
        )
        _check_received(theirs_again, key)

    @rule
    async def test_a_chunk_of_64_mebibytes_goes_through_memory_of_its_caller(self, subject: Subject) -> None:
        """It goes out in parts and comes in parts, and each has to find its region."""
        nbytes = min(LARGEST, subject.capabilities.max_chunk_bytes)
        key = subject.key()
        theirs = Scattered(nbytes)
        theirs.fill(key)
        is_stored = await subject.connector.put_from(key, theirs.regions)
        assert is_stored is True, f"put_from() of {nbytes} bytes gave {is_stored!r}"
        theirs.mark()
        has_come = await subject.connector.get_into(key, theirs.regions)
        assert has_come is True, f"get_into() of {nbytes} bytes gave {has_come!r}"
        _check_received(theirs, key)
        if subject.capabilities.remove:
            await subject.connector.remove(key)

    @rule
    async def test_memory_that_cannot_be_used_is_refused_by_name(self, subject: Subject) -> None:
        """A mistake of the caller's is an error of his. As a miss, it would cost every chunk and nobody would know."""
        key, other = subject.keys(2)
        for name in (key, other):
            await subject.put(name)
        one, two = ChunkMetadata.of((_NBYTES,), "uint8"), ChunkMetadata.of((2 * _NBYTES,), "uint8")
        striped = memoryview(bytearray(2 * _NBYTES))[::2]
        fine = bytearray(_NBYTES)
        for connector in (subject.connector.wrapped, subject.connector):
            wrong: dict[str, tuple[Any, ...]] = {
                "read-only": ([key], [bytes(_NBYTES)]),
                "not contiguous": ([key], [striped]),
                "no memory": ([key], [_NBYTES]),
                "of no bytes": ([key], [bytearray()]),
                "one for two keys": ([key, other], [fine]),
                "two for one key": ([key], [fine, bytearray(_NBYTES)]),
                "described by other metadata": ([key], [fine], two),
                "described by two for one key": ([key], [fine], [one, one]),
            }
            if connector is subject.connector:
                view = memoryview(bytearray(2 * _NBYTES))
                wrong["that two keys share"] = ([key, other], [view[:_NBYTES], view[1 : _NBYTES + 1]])
            for what, arguments in wrong.items():
                await _expect_refusal(connector, "batched_get_into", what, arguments)
                if what not in ("read-only", "that two keys share"):  # which a put only reads
                    await _expect_refusal(connector, "batched_put_from", what, arguments)
        await subject.expect(key)
        await subject.expect(other)

    @rule
    async def test_memory_of_a_thread_and_of_another_loop_is_filled_and_read(self, subject: Subject) -> None:
        """Engines call from threads of their own, which have no loop or another one."""
        connector = subject.connector
        key, other = subject.keys(2)
        theirs = Scattered(_NBYTES)
        theirs.fill(key)

        async def on_another_loop() -> bool:
            received = Scattered(_NBYTES)
            return await connector.get_into(key, received.regions) and received.holds(key)

        def in_a_thread() -> list[bool]:
            is_stored = connector.sync.put_from(key, theirs.regions)
            received = Scattered(_NBYTES)
            has_come = connector.sync.get_into(key, received.regions) and received.holds(key)
            batch = Scattered(_NBYTES)
            stored = connector.sync.batched_put_from([other], [theirs.regions])
            found = connector.sync.batched_get_into([other, key], [bytearray(_NBYTES), batch.regions])
            return [is_stored, has_come, *stored, *found, batch.holds(key), asyncio.run(on_another_loop())]

        answers = await asyncio.to_thread(in_a_thread)
        assert answers == [True] * 7, f"calls from a thread, and from another loop, gave {answers}"


async def _expect_refusal(connector: RemoteConnector, operation: str, what: str, arguments: tuple[Any, ...]) -> None:
    try:
        found = await getattr(connector, operation)(*arguments)
    except InvalidArgumentError:
        return
    raise AssertionError(
        f"{operation}() of {type(connector).__name__} with memory {what} gave {found!r}; expected "
        "InvalidArgumentError: CallerMemory.of() checks all that"
    )


def _sizes(subject: Subject) -> list[int]:
    return sorted({min(nbytes, subject.capabilities.max_chunk_bytes) for nbytes in _SIZES})


def _check_received(theirs: Scattered, key: str) -> None:
    assert theirs.holds(key), (
        f"True was answered for {key!r}, and its caller's regions hold other bytes than were stored"
    )
    assert theirs.are_gaps_untouched(), f"the chunk of {key!r} was written beside its caller's regions"


def _check_flags(operation: str, found: object, expected: Sequence[bool], connector: RemoteConnector) -> None:
    assert isinstance(found, list), f"{operation}() gave a {type(found).__name__}; expected a list"
    assert found == list(expected), f"{operation}() of {type(connector).__name__} gave {found}; expected {expected}"
    kinds = {type(flag).__name__ for flag in found} - {"bool"}
    assert not kinds, f"{operation}() of {type(connector).__name__} gave {', '.join(kinds)} for bool"
