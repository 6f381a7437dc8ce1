"""Rules for memory of callers after the end of a call: however that came, nothing touches the memory any more."""

from __future__ import annotations

import asyncio
from typing import Final

from ..scattered import Scattered
from ..subject import Subject, check_payload, is_same, outcome, payload, rule, yield_to_loop
from .cancellation import cancel_everywhere
from .failure import let_go, until_it_answers

_HALF: Final = 1 << 19
_EIGHTH: Final = 1 << 17
_VERSIONS: Final = 4
_WATCHED: Final = 0.05
"""Seconds for which memory is watched at the end: a thread that still moves bytes takes less."""


class AfterTheEndRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float

    @rule
    async def test_a_get_into_that_is_cancelled_at_any_point_writes_nothing_afterwards(self, subject: Subject) -> None:
        """The engine gives the memory to another request at once. What came late would be that one's tokens."""
        key, other = subject.keys(2)
        await subject.put(key, _HALF)
        await subject.put(other, 1000)
        theirs = Scattered(_HALF)

        async def check(result: object) -> None:
            assert result is not False, "a get_into() that was cancelled answered that its key is not stored"
            if result is True:
                assert theirs.holds(key), "a get_into() that was cancelled said True, and the bytes are others"
            theirs.mark()
            subject.check_nothing_is_held("a cancelled get_into()")
            await subject.expect(other, 1000)
            self._check_marked(theirs, "a cancelled get_into()")

        await cancel_everywhere(
            lambda: subject.connector.get_into(key, theirs.regions), check, "a cancelled get_into()", self.ends_within
        )
        await asyncio.sleep(_WATCHED)
        self._check_marked(theirs, "a cancelled get_into()")
        assert await subject.connector.get_into(key, theirs.regions) is True, (
            "a stored key is False after cancellations"
        )
        assert theirs.holds(key), "get_into() after others were cancelled filled in other bytes"

    @rule
    async def test_a_batched_get_into_that_is_cancelled_at_any_point_writes_nothing_afterwards(
        self, subject: Subject
    ) -> None:
        """The chunks that have not come, and those that are just coming, must not come any more."""
        keys = subject.keys(8)
        for key in keys:
            await subject.put(key, _EIGHTH)
        theirs = [Scattered(_EIGHTH) for _ in keys]

        async def check(result: object) -> None:
            if isinstance(result, list):
                assert result == [True] * len(keys), f"a batch of stored keys gave {result}"
                assert all(item.holds(key) for item, key in zip(theirs, keys, strict=True)), (
                    "a batched_get_into() that was cancelled said True, and the bytes are others"
                )
            for item in theirs:
                item.mark()
            subject.check_nothing_is_held("a cancelled batched_get_into()")
            await subject.expect(keys[0], _EIGHTH)
            for item in theirs:
                self._check_marked(item, "a cancelled batched_get_into()")

        await cancel_everywhere(
            lambda: subject.connector.batched_get_into(keys, [item.regions for item in theirs]),
            check,
            "a cancelled batched_get_into()",
            self.ends_within,
        )
        await asyncio.sleep(_WATCHED)
        for item in theirs:
            self._check_marked(item, "a cancelled batched_get_into()")

    @rule
    async def test_a_put_from_that_has_returned_reads_nothing_any_more(self, subject: Subject) -> None:
        """The engine overwrites the memory at once. What is stored is what was there when the call was made."""
        for version, nbytes in enumerate((4096, _HALF)):
            keys = subject.keys(3, str(nbytes))
            theirs = [Scattered(nbytes) for _ in keys]
            for key, item in zip(keys, theirs, strict=True):
                item.fill(key, version)
            stored = [await subject.connector.put_from(keys[0], theirs[0].regions)]
            theirs[0].mark()
            stored += await subject.connector.batched_put_from(keys[1:], [item.regions for item in theirs[1:]])
            for item in theirs:
                item.mark()
            assert stored == [True] * len(keys), f"put_from() and batched_put_from() gave {stored}"
            await yield_to_loop(3)
            for key in keys:
                found = await subject.read(key)
                assert is_same(found, payload(key, nbytes, version)), (
                    "a put_from() that had returned True stored bytes that were written afterwards, or none"
                )

    @rule
    async def test_a_put_from_that_is_cancelled_at_any_point_leaves_a_whole_chunk(self, subject: Subject) -> None:
        """The engine uses its memory again. What others then find is whole, and was put by somebody."""
        key = subject.key()
        whole = [payload(key, _HALF, version) for version in range(_VERSIONS)]
        theirs = Scattered(_HALF)
        theirs.fill(key)
        version = 0
        assert await subject.connector.put_from(key, theirs.regions) is True, "put_from() gave not True"

        async def check(result: object) -> None:
            nonlocal version
            assert result is not False, "a put_from() that was cancelled answered that it has stored nothing"
            theirs.mark()
            subject.check_nothing_is_held("a cancelled put_from()")
            found = await subject.read(key)
            assert found is not None, "a cancelled put_from() took away what was stored before it"
            assert is_same(found, *whole), "a cancelled put_from() stored bytes that were written after it had ended"
            self._check_marked(theirs, "a cancelled put_from()")
            version = (version + 1) % _VERSIONS
            theirs.fill(key, version)

        await cancel_everywhere(
            lambda: subject.connector.put_from(key, theirs.regions), check, "a cancelled put_from()", self.ends_within
        )

    @rule
    async def test_a_store_that_fails_gives_no_true_for_memory_of_a_caller(self, subject: Subject) -> None:
        """A put that was not stored is not reported as stored, and an engine does not compute with what never came."""
        async with subject.breakable(False) as store:
            key, new = subject.keys(2)
            connector = store.connector
            with subject.chunk(key, _EIGHTH) as obj:
                await connector.put(key, obj)
            wrapped = connector.wrapped
            await store.fail()
            theirs, sent = Scattered(_EIGHTH), Scattered(_EIGHTH)
            theirs.mark()
            sent.fill(new)
            getting = asyncio.create_task(wrapped.get_into(key, theirs.regions))
            got = await outcome(getting, self.ends_within, "get_into() of a store that is down")
            putting = asyncio.create_task(wrapped.put_from(new, sent.regions))
            put = await outcome(putting, self.ends_within, "put_from() of a store that is down")
            was_known = got is True and theirs.holds(key)  # by a cache in front of the store
            theirs.mark()
            sent.mark()
            await store.mend()
            await until_it_answers(connector, key, self.ends_within)
            assert was_known or isinstance(got, Exception), (
                f"the store is down, and get_into() answered {got!r}; raise an error for whatever is not a miss"
            )
            assert isinstance(put, Exception), (
                f"the store is down, and put_from() answered {put!r}; raise an error where nothing can be stored"
            )
            for failure in (got, put):
                let_go(failure)
            await asyncio.sleep(_WATCHED)
            self._check_marked(theirs, "a get_into() that has failed")
            found = await connector.get(new)
            if found is not None:
                check_payload(found, new, _EIGHTH)

    def _check_marked(self, theirs: Scattered, what: str) -> None:
        assert theirs.is_marked(), f"{what} wrote into its caller's memory after it had ended"
        assert theirs.are_gaps_untouched(), f"{what} wrote beside its caller's regions"
