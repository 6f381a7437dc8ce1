"""Rules for batches: one slot per key, always. Cutting at the first miss is a separate step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ...contract import RemoteConnector
from ...errors import ArenaExhaustedError
from ..subject import Subject, check_payload, release, rule

_MANY: Final = 300
_LARGE: Final = 1 << 20


class BatchRules:
    """Part of `ConnectorConformance`.

    A `ManagedConnector` notices a batch of the wrong length and asks for each key alone instead. So that the author
    learns of it, the rules also ask the author's own connector, `connector.wrapped`.
    """

    limit: float

    @rule
    async def test_batched_get_has_one_slot_per_key(self, subject: Subject) -> None:
        """A miss that is left out assigns every later chunk to the wrong tokens: the worst error of a cache."""
        a, b, c, d = subject.keys(4)
        await _put_all(subject, (a, b, c))
        hole = subject.key("hole")
        for batch in (
            (hole, a, b, c),
            (a, hole, b, c),
            (a, b, c, hole),
            (hole, a, hole, hole, b, hole),
            (c, b, a),
            (a,),
            (hole,),
            (hole, d),
        ):
            for connector in (subject.connector.wrapped, subject.connector):
                _check_slots(await connector.batched_get(list(batch)), batch, {a, b, c}, connector)

    @rule
    async def test_batched_get_fills_every_slot_of_a_repeated_key(self, subject: Subject) -> None:
        """Each slot has a reference of its own, because the caller releases each slot."""
        a, b = subject.keys(2)
        await _put_all(subject, (a, b))
        batch = (a, b, a, a, subject.key("hole"), b)
        for connector in (subject.connector.wrapped, subject.connector):
            _check_slots(await connector.batched_get(list(batch)), batch, {a, b}, connector)

    @rule
    async def test_a_large_batch_keeps_its_order(self, subject: Subject) -> None:
        """Pipelines, windows and worker tasks finish in any order. The slots keep the order of the keys."""
        keys = subject.keys(_MANY)
        there = {key for index, key in enumerate(keys) if index % 7}
        await _put_all(subject, sorted(there))
        _check_slots(await subject.connector.batched_get(keys), keys, there, subject.connector)
        flags = await subject.connector.batched_exists(keys)
        assert flags == [key in there for key in keys], "batched_exists() of a large batch is out of order"

    @rule
    async def test_an_empty_batch_is_empty(self, subject: Subject) -> None:
        """A prompt that is shorter than a chunk has an empty batch. That is not an error."""
        for connector in (subject.connector.wrapped, subject.connector):
            for found in (
                await connector.batched_get([]),
                await connector.batched_exists([]),
                await connector.batched_get_non_blocking("lookup", []),
            ):
                assert found == [], f"an empty batch gave {found!r}"
            assert await connector.batched_async_contains("lookup", []) == 0, "an empty batch has a prefix of 0"
            await connector.batched_put([], [])

    @rule
    async def test_batched_put_stores_every_pair(self, subject: Subject) -> None:
        """Every chunk is stored under its own key, also where sizes differ."""
        keys = subject.keys(20)
        objs = [subject.chunk(key, 100 + 1000 * index) for index, key in enumerate(keys)]
        try:
            await subject.connector.batched_put(keys, objs)
        finally:
            release(objs)
        for index, key in enumerate(keys):
            await subject.expect(key, 100 + 1000 * index)

    @rule
    async def test_batched_put_only_borrows_the_chunks(self, subject: Subject) -> None:
        """The caller owns the chunks: the connector neither keeps nor releases a reference."""
        keys = subject.keys(5)
        objs = [subject.chunk(key) for key in keys]
        for obj in objs:
            obj.ref_count_up()
        try:
            await subject.connector.batched_put(keys, objs)
            counts = [obj.get_ref_count() for obj in objs]
        finally:
            release([*objs, *objs])
        assert counts == [2] * 5, f"the caller held 2 references to each chunk, and {counts} are counted afterwards"

    @rule
    async def test_batched_exists_is_positional(self, subject: Subject) -> None:
        """There is one answer per key, in the order of the keys."""
        a, b, c = subject.keys(3)
        await _put_all(subject, (a, c))
        for connector in (subject.connector.wrapped, subject.connector):
            for batch in ((a, b, c), (b, a, c, a), (b,), (a, a), (b, b, b, c)):
                flags = await connector.batched_exists(list(batch))
                assert flags == [key != b for key in batch], f"batched_exists() gave {flags} for {batch}"

    @rule
    async def test_batched_async_contains_counts_the_hit_prefix(self, subject: Subject) -> None:
        """Attention needs all tokens before a chunk, so chunks behind the first miss are useless."""
        a, b, c = subject.keys(3)
        hole = subject.key("hole")
        await _put_all(subject, (a, b, c))
        for connector in (subject.connector.wrapped, subject.connector):
            for batch, expected in (((a, b, c), 3), ((a, b, hole, c), 2), ((hole, a, b), 0), ((a, hole, hole), 1)):
                count = await connector.batched_async_contains("lookup", list(batch))
                assert count == expected, f"the hit prefix of {batch} has {expected} keys, not {count}"

    @rule
    async def test_batched_get_non_blocking_stops_at_the_first_hole(self, subject: Subject) -> None:
        """It returns the chunks before the first miss, and releases those that it fetched behind it."""
        a, b, c = subject.keys(3)
        hole = subject.key("hole")
        await _put_all(subject, (a, b, c))
        for connector in (subject.connector.wrapped, subject.connector):
            for batch, hits in (((a, b, c), 3), ((a, b, hole, c), 2), ((hole, a, b), 0), ((a, hole, b, c), 1)):
                found = await connector.batched_get_non_blocking("lookup", list(batch))
                _check_slots(found, batch[:hits], {a, b, c}, connector)
                live = subject.backend.statistics().live_objects
                assert live == 0, f"{live} chunks behind the first hole of {batch} were kept"

    @rule
    async def test_a_batch_that_does_not_fit_the_arena_raises_and_holds_nothing(self, subject: Subject) -> None:
        """A batch that keeps half of its chunks and waits for room for the rest would wait for itself."""
        keys = subject.keys(6)
        for key in keys:
            await subject.put(key, _LARGE)
        held = subject.take_all_room(but=3)
        try:
            async with asyncio.timeout(0.08):
                found = await subject.connector.batched_get(keys)
        except (ArenaExhaustedError, TimeoutError):
            live = subject.backend.statistics().live_objects - len(held)
            assert live == 0, f"the batch failed and holds {live} chunks"
        else:
            release(found)
            raise AssertionError("six chunks were fetched into an arena with room for three")
        finally:
            release(held)
        await subject.expect(keys[0], _LARGE)


async def _put_all(subject: Subject, keys: Sequence[str]) -> None:
    for key in keys:
        await subject.put(key)


def _check_slots(found: Sequence[Any], batch: Sequence[str], there: set[str], connector: RemoteConnector) -> None:
    """One slot per key of `batch`: the chunk of each key that is `there`, None for the others. Releases them."""
    who = f"{type(connector).__name__}'s batch of {len(batch)}"
    try:
        assert len(found) == len(batch), f"{who} has {len(found)} slots; expected one per key"
        for index, (obj, key) in enumerate(zip(found, batch, strict=True)):
            assert (obj is not None) == (key in there), (
                f"slot {index} of {who} is {'a miss' if obj is None else 'filled'} and its key is "
                f"{'stored' if key in there else 'not'}"
            )
            if obj is not None:
                slots = sum(other is obj for other in found)
                assert obj.get_ref_count() == slots, (
                    f"slot {index} of {who}: {slots} slots share {obj.get_ref_count()} references; expected one each"
                )
                obj.ref_count_up()
                check_payload(obj, key, 4096)
    finally:
        release(found)
