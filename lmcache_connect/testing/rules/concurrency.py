"""Rules for many callers at once: nothing is mixed up, and no chunk is half old and half new."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..subject import Subject, payload, rule

_NBYTES: Final = 1 << 18
_VERSIONS: Final = 4


class ConcurrencyRules:
    """Part of `ConnectorConformance`."""

    limit: float

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
            assert found in whole, f"{len(found)} bytes came back that none of the writers stored"

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

        async def read() -> None:
            while writing:
                found = await subject.read(key)
                assert found is not None, "a key that was being overwritten was a miss"
                assert found in whole, "a reader saw bytes that no writer had stored"
                await asyncio.sleep(0)  # a store in memory may never let the writer run

        await _all_of((write(), read(), read(), read()))


async def _all_of(calls: Any) -> None:
    """Awaits all calls. The first failure cancels the others and is raised without an exception group."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
