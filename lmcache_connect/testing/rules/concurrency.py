"""Rules for many callers at once: nothing is mixed up, and no chunk is half old and half new."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Final

from ...errors import StoreError
from ..subject import Subject, is_same, outcome, payload, release, rule, yield_to_loop

_NBYTES: Final = 1 << 18
_VERSIONS: Final = 4
_LOAD: Final = 256
_SMALL: Final = 2000
_TURNS: Final = 30


class ConcurrencyRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float

    @rule
    async def test_concurrent_puts_and_gets_of_different_keys_do_not_mix(self, subject: Subject) -> None:
        """Callers share connections. A reply that goes to the wrong caller is another prompt's cache."""
        keys = subject.keys(64)
        sizes = [1 + (index * 7919) % 60_000 for index in range(64)]

        async def use(key: str, nbytes: int) -> None:
            assert await subject.connector.get(key) is None, f"{key!r} is a hit before it was stored"
            for version in range(3):
                await subject.put(key, nbytes, version=version)
                await subject.expect(key, nbytes, version=version)

        await _all_of(use(key, nbytes) for key, nbytes in zip(keys, sizes, strict=True))
        await _all_of(subject.expect(key, nbytes, version=2) for key, nbytes in zip(keys, sizes, strict=True))

    @rule
    async def test_concurrent_writers_of_one_key_leave_one_of_their_chunks_whole(self, subject: Subject) -> None:
        """Two engines that compute the same prompt store it at the same time."""
        key = subject.key()
        sizes = [200_000, 200_000, 1000, 70_000] * 2
        for _ in range(3):
            await _all_of(subject.put(key, nbytes, version=version) for version, nbytes in enumerate(sizes))
            found = await subject.read(key)
            assert found is not None, "several wrote one key, and it is a miss"
            whole = [payload(key, nbytes, version) for version, nbytes in enumerate(sizes)]
            assert is_same(found, *whole), f"{len(found)} bytes came back that none of the writers stored"

    @rule
    async def test_a_reader_during_overwrites_sees_only_whole_chunks(self, subject: Subject) -> None:
        """It sees the old chunk or the new one, never a miss in between and never a mixture."""
        key = subject.key()
        whole = {payload(key, _NBYTES, version) for version in range(_VERSIONS)}
        await subject.put(key, _NBYTES)
        writing = True

        async def write() -> None:
            nonlocal writing
            try:
                for version in range(5 * _VERSIONS):
                    await subject.put(key, _NBYTES, version=version % _VERSIONS)
            finally:
                writing = False

        async def read(pauses: int) -> None:
            for turn in count():
                if not writing:
                    return
                found = await subject.read(key)
                assert found is not None, "a key that was being overwritten was a miss"
                assert is_same(found, *whole), "a reader saw bytes that no writer had stored"
                # A store in memory may never let the writer run, or always at the same point of its put.
                await yield_to_loop(1 + turn % pauses)

        await _all_of((write(), read(1), read(3), read(5)))

    @rule
    async def test_every_put_that_was_acknowledged_under_load_is_there(self, subject: Subject) -> None:
        """A put that ends without an error has stored its chunk. One that a full queue drops must raise."""
        keys = subject.keys(_LOAD)
        ended = await asyncio.gather(*(subject.put(key, _SMALL) for key in keys), return_exceptions=True)
        for error in ended:
            if error is not None and not isinstance(error, StoreError):
                raise error
        acknowledged = [key for key, error in zip(keys, ended, strict=True) if error is None]
        flags = await subject.connector.batched_exists(acknowledged)
        lost = flags.count(False)
        assert not lost, (
            f"{len(acknowledged)} of {_LOAD} puts at once ended without an error, and {lost} of their chunks are not "
            "there; raise an error for a chunk that is not stored"
        )
        for key in acknowledged[::16]:
            await subject.expect(key, _SMALL)

    @rule
    async def test_gets_of_one_key_at_once_have_a_chunk_each(self, subject: Subject) -> None:
        """Several prompts begin alike. Each caller releases its chunk, and writes into it if it is not read-only."""
        key = subject.key()
        await subject.put(key, _NBYTES)
        expected = payload(key, _NBYTES)
        for connector in (subject.connector.wrapped, subject.connector):
            found = await asyncio.gather(*(connector.get(key) for _ in range(8)))
            try:
                for obj in found:
                    assert obj is not None, "one of several gets of a stored key was a miss"
                    same = sum(other is obj for other in found)
                    counted = obj.get_ref_count()
                    assert counted == same, (
                        f"{same} of 8 gets at once share one chunk, with {counted} references; expected one for each"
                    )
                    assert is_same(obj.byte_array, expected), "one of several gets of a key has other bytes"
                first = found[0]
                assert first is not None
                if not first.is_read_only:
                    first.byte_array[:] = bytes(_NBYTES)
                    for other in found[1:]:
                        assert other is not None
                        assert is_same(other.byte_array, expected), (
                            "gets at once share memory that they may write into; give each a chunk of its own, or a "
                            "read-only one"
                        )
            finally:
                release(found)

    @rule
    async def test_a_get_that_is_cancelled_disturbs_no_other_get_of_its_key(self, subject: Subject) -> None:
        """Where several share one fetch, it belongs to none of them."""
        key = subject.key()
        await subject.put(key, _NBYTES)
        for connector in (subject.connector.wrapped, subject.connector):
            for turns in range(_TURNS):
                getting = [asyncio.create_task(connector.get(key)) for _ in range(4)]
                await yield_to_loop(turns)
                victim = turns % 4
                getting[victim].cancel()
                results = [await outcome(task, self.ends_within, "one of several gets of a key") for task in getting]
                was_late = not isinstance(results[victim], BaseException)
                try:
                    for index, result in enumerate(results):
                        if index == victim and isinstance(result, asyncio.CancelledError):
                            continue
                        if isinstance(result, asyncio.CancelledError):
                            raise AssertionError(
                                "one of several gets of a key was cancelled, and another ended with it"
                            )
                        if isinstance(result, BaseException):
                            raise result
                        assert result is not None, "a get of a stored key was a miss when another one was cancelled"
                finally:
                    release(results)
                subject.check_nothing_is_held("a cancelled get among others of its key")
                if was_late and turns > 2:
                    break  # they all end before the cancellation now
        await subject.expect(key, _NBYTES)


async def _all_of(calls: Any) -> None:
    """Awaits all calls. The first failure cancels the others and is raised without an exception group."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
