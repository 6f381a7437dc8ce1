"""Rules for the connection to a server, by a fault proxy: cut, stalled or slow at a chosen byte."""

from __future__ import annotations

import asyncio
from typing import Final

from ...memory import MemoryObj
from ..servers.tcp_faults import Direction, Fault, FaultKind
from ..subject import Subject, check_payload, outcome, release, rule
from .failure import check_failure, until_it_answers
from .loops import check_loop_is_free

_NBYTES: Final = 1 << 18
_OFFSETS: Final = (0, 1, 20, 200, _NBYTES // 2, _NBYTES - 1)
_SLOW: Final = 0.15


class WireRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float

    @rule
    async def test_a_connection_that_is_cut_at_any_byte_gives_a_chunk_or_an_error(self, subject: Subject) -> None:
        """Half a reply is neither a chunk nor a miss, and half a request has stored nothing or everything."""
        async with subject.breakable(True) as store:
            key, other = subject.keys(2)
            with subject.chunk(key, _NBYTES) as obj:
                await store.connector.put(key, obj)
            for offset in _OFFSETS:
                for kind in (FaultKind.RESET, FaultKind.TRUNCATE_AND_CLOSE):
                    store.fault_proxy.arm(Fault(kind, Direction.TO_CLIENT, offset, count=1))
                    getting = asyncio.create_task(store.connector.get(key))
                    found = await outcome(getting, self.ends_within, f"a get() that was cut after {offset} bytes")
                    store.fault_proxy.disarm()
                    assert found is not None, f"a get() whose reply was cut after {offset} bytes was a miss"
                    if isinstance(found, MemoryObj):
                        check_payload(found, key, _NBYTES)
                    check_failure(found)
                    subject.check_nothing_is_held("a get() whose connection was cut")
                    await until_it_answers(store.connector, key, self.ends_within)

                    store.fault_proxy.arm(Fault(kind, Direction.TO_SERVER, offset, count=1))
                    with subject.chunk(other, _NBYTES, version=offset) as obj:
                        putting = asyncio.create_task(store.connector.put(other, obj))
                        put = await outcome(putting, self.ends_within, f"a put() that was cut after {offset} bytes")
                    store.fault_proxy.disarm()
                    check_failure(put)
                    await until_it_answers(store.connector, key, self.ends_within)
                    if put is None:
                        check_payload(await store.connector.get(other), other, _NBYTES, version=offset)

    @rule
    async def test_a_get_that_is_cancelled_at_any_byte_leaves_nothing_behind(self, subject: Subject) -> None:
        """A reply that was received in part still comes, and no other caller may get it."""
        async with subject.breakable(True) as store:
            key, other = subject.keys(2)
            with subject.chunk(key, _NBYTES) as obj:
                await store.connector.put(key, obj)
            with subject.chunk(other, 1000) as obj:
                await store.connector.put(other, obj)
            for offset in _OFFSETS:
                store.fault_proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, offset))
                getting = asyncio.create_task(store.connector.get(key))
                await asyncio.to_thread(store.fault_proxy.wait_fired, 0.2)
                getting.cancel()
                found = await outcome(getting, self.ends_within, f"a get() that was cancelled after {offset} bytes")
                store.fault_proxy.disarm()
                assert found is not None, f"a get() that was cancelled after {offset} bytes was a miss"
                if isinstance(found, MemoryObj):
                    check_payload(found, key, _NBYTES)
                elif not isinstance(found, asyncio.CancelledError):
                    check_failure(found)
                subject.check_nothing_is_held(f"a get() that was cancelled after {offset} bytes")
                check_payload(await store.connector.get(other), other, 1000)
                check_payload(await store.connector.get(key), key, _NBYTES)

    @rule
    async def test_a_slow_store_does_not_block_the_event_loop(self, subject: Subject) -> None:
        """A driver that waits in the loop's thread stops every request, for as long as the store takes."""
        async with subject.breakable(True) as store:
            connector = store.connector
            key = subject.key()
            with subject.chunk(key) as obj:

                async def use() -> None:
                    await asyncio.gather(connector.put(key, obj), connector.exists(key))
                    found, *_ = await asyncio.gather(connector.get(key), connector.batched_exists([key]))
                    release([found])

                await use()
                store.fault_proxy.arm(Fault(FaultKind.DELAY, Direction.TO_CLIENT, delay=_SLOW))
                try:
                    await check_loop_is_free(use, f"using a store that answers after {_SLOW} s")
                finally:
                    store.fault_proxy.disarm()
