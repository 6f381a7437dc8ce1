"""`ConnectorTrials`: the calls of a connector's contract, tried on keys of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from ...contract import Finding, Verdict
from ...errors import LMCacheConnectError, StoreError, UnsupportedOperationError
from ...managed import ManagedConnector
from ...memory import LocalCPUBackend, MemoryObj
from ..demo.workload import Pattern
from ..frame.own_keys import OwnKeys
from ..frame.sizes import size

_TOKEN_BYTES: Final = 512
SMALL_BYTES: Final = 64 << 10

Trial = Callable[[], Awaitable[Finding]]

_SMALL, _LARGE, _SECOND, _ABSENT = range(4)


class ConnectorTrials:
    """Each trial ends within `timeout` seconds. The keys that are left are those of `keys`."""

    def __init__(
        self,
        connector: ManagedConnector,
        backend: LocalCPUBackend,
        keys: OwnKeys,
        timeout: float,
        large_bytes: int,
        stripe: int = 0,
        ttl: float | None = None,
        fresh: ManagedConnector | None = None,
    ) -> None:
        """`large_bytes`: the size of a large chunk. `stripe`: that of the pieces of such a one, where there are some.

        `ttl`: the seconds after which what is put expires; None: never. `fresh`: a connector of the same store without
        its hot cache, by which chunks are read where there is one.
        """
        self._connector: Final = connector
        self._reader: Final = fresh if fresh is not None else connector
        self._backend: Final = backend
        self._keys: Final = keys
        self._timeout: Final = timeout
        self._large: Final = large_bytes
        self._stripe: Final = stripe
        self._ttl: Final = ttl
        self._stored: Final[set[int]] = set()

    async def reached(self) -> Finding:
        """Whether the store answers at all. `UNUSABLE` where it does not."""
        connector = self._connector
        is_ping = connector.support_ping()
        started = time.perf_counter()
        ask = connector.ping if is_ping else lambda: connector.exists(self._keys.absent(_ABSENT))
        try:
            async with asyncio.timeout(self._timeout):
                await ask()
        except TimeoutError:
            return Finding("ping", Verdict.UNUSABLE, f"no answer within {self._timeout:g} s")
        except LMCacheConnectError as error:
            return Finding("ping", Verdict.UNUSABLE, _words(error))
        how = "" if is_ping else ", by a look-up"
        return Finding("ping", Verdict.GOOD, f"{(time.perf_counter() - started) * 1e3:.1f} ms{how}")

    async def findings(self, room: int | None = None) -> AsyncIterator[Finding]:
        """Yields a finding for each trial. What depends on one that failed is left out.

        `room`: how many bytes the store takes until it evicts chunks of others, or refuses; None: enough. A large chunk
        that does not fit is not put.
        """
        written = await self._try("write", lambda: self._write(_SMALL, SMALL_BYTES, 0))
        yield written
        yield await self._try("missing chunk", self._missing)
        if written.verdict is not Verdict.GOOD:
            return
        yield await self._try("overwrite", lambda: self._write(_SMALL, SMALL_BYTES, 1))
        if room is None or room >= self._large + 2 * SMALL_BYTES:
            yield await self._try(self._large_subject, lambda: self._write(_LARGE, self._large, 0))
        else:
            found = f"not tried: the store has room for {size(room)}, and {size(self._large)} would displace others"
            fitting = room >> 20
            smaller = f"--max-bytes {fitting}MiB tries a smaller one, " if fitting << 20 > 5 * self._stripe else ""
            advice = f"{smaller}--anyway tries it all the same"
            yield Finding(self._large_subject, Verdict.UNKNOWN, found, advice)
        if self._ttl is not None:
            yield await self._try("TTL of chunks", self._expiry)
        yield await self._try("batch with a hole", self._batch)
        yield await self._try("listing", self._list)
        yield await self._try("remove", self._remove)

    @property
    def _large_subject(self) -> str:
        return "striping" if self._stripe else "large chunk"

    async def _try(self, subject: str, trial: Trial) -> Finding:
        try:
            async with asyncio.timeout(self._timeout):
                return await trial()
        except UnsupportedOperationError:
            return Finding(subject, Verdict.NOTE, "the connector does not support it")
        except TimeoutError:
            advice = "a longer --timeout tells whether it is slow or stands still"
            return Finding(subject, Verdict.FAILS, f"not done within {self._timeout:g} s", advice)
        except LMCacheConnectError as error:
            return Finding(subject, Verdict.FAILS, _words(error))

    # -------------------------------------------------------------------------------------------------- the trials

    async def _write(self, number: int, nbytes: int, generation: int) -> Finding:
        subject = self._large_subject if number == _LARGE else ("overwrite" if generation else "write")
        key = self._keys.key(number)
        pattern = Pattern(f"{self._keys.model_name}/{number}/{generation}")
        started = time.perf_counter()
        with await self._chunk(nbytes) as chunk:
            pattern.fill(chunk.byte_array)
            await self._connector.put(key, chunk)
        if not await self._connector.exists(key):
            found = "a chunk was put, and the store says that it is not there"
            return Finding(subject, Verdict.FAILS, found, _LOSES)
        self._stored.add(number)
        complaint = await self._complaint(number, nbytes, pattern)
        if complaint:
            return Finding(subject, Verdict.FAILS, complaint, _LOSES)
        took = f"{(time.perf_counter() - started) * 1e3:.1f} ms"
        how = f" in pieces of {size(self._stripe)}" if self._stripe and number == _LARGE else ""
        return Finding(subject, Verdict.GOOD, f"{size(nbytes)}{how}: put, found, read back, verified, in {took}")

    async def _complaint(self, number: int, nbytes: int, pattern: Pattern) -> str:
        """Returns what is wrong about a chunk that is read back; "" where nothing is."""
        found = await self._reader.get(self._keys.key(number))
        if found is None:
            return "a chunk that was put is a miss"
        with found:
            if found.get_size() != nbytes:
                return f"{nbytes} bytes were put, and {found.get_size()} came back"
            at = pattern.difference(found.byte_array)
        return "" if at is None else f"other bytes came back, first at byte {at}"

    async def _missing(self) -> Finding:
        absent = self._keys.absent(_ABSENT)
        if await self._connector.exists(absent):
            return Finding("missing chunk", Verdict.FAILS, "the store says that it has a key which nobody has put")
        found = await self._connector.get(absent)
        if found is not None:
            found.ref_count_down()
            return Finding("missing chunk", Verdict.FAILS, "a get of a key that nobody has put returns a chunk")
        return Finding("missing chunk", Verdict.GOOD, "a miss")

    async def _batch(self) -> Finding:
        pattern = Pattern(f"{self._keys.model_name}/{_SECOND}/0")
        with await self._chunk(SMALL_BYTES) as chunk:
            pattern.fill(chunk.byte_array)
            await self._connector.batched_put([self._keys.key(_SECOND)], [chunk])
        self._stored.add(_SECOND)
        keys = [self._keys.key(_SMALL), self._keys.absent(_ABSENT), self._keys.key(_SECOND)]
        flags = list(await self._connector.batched_exists(keys))
        slots = await self._reader.batched_get(keys)
        hits = [slot is not None for slot in slots]
        for slot in slots:
            if slot is not None:
                slot.ref_count_down()
        if flags != [True, False, True] or hits != [True, False, True]:
            found = f"of a hit, a miss and a hit, look-ups say {flags}, and gets {hits}"
            return Finding("batch with a hole", Verdict.FAILS, found, "use another store: chunks would be mixed up")
        return Finding("batch with a hole", Verdict.GOOD, "a hit, a miss, a hit: in their places")

    async def _expiry(self) -> Finding:
        asked = self._ttl or 0.0
        [facts] = await self._connector.describe([self._keys.key(_SMALL)])
        if facts is None:
            return Finding("TTL of chunks", Verdict.FAILS, "a chunk that was put is gone", _LOSES)
        if facts.ttl is None:
            return Finding("TTL of chunks", Verdict.UNKNOWN, "the store does not tell it, or not this user")
        if not 0 < facts.ttl <= asked:
            found = f"put with {asked:g} s, and the store says {facts.ttl:g}"
            return Finding("TTL of chunks", Verdict.FAILS, found, "use a store that expires keys")
        return Finding("TTL of chunks", Verdict.GOOD, f"put with {asked:g} s, {facts.ttl:.0f} s left")

    async def _list(self) -> Finding:
        expected = {self._keys.key(number).to_string() for number in self._stored}
        seen: set[str] = set()
        others = 0
        async for name in self._connector.scan(self._keys.model_name):
            seen.add(name)
            others += name not in expected
            if expected <= seen:
                break
        missing = len(expected - seen)
        if missing or others:
            found = f"of {len(expected)} keys, {missing} are missing; {others} are others'"
            return Finding("listing", Verdict.HURTS, found, "list, clear, ls and du do not tell the truth here")
        return Finding("listing", Verdict.GOOD, f"{len(expected)} keys, all of them there")

    async def _remove(self) -> Finding:
        key = self._keys.key(_SMALL)
        was_there = await self._connector.remove(key)
        if not was_there:
            return Finding("remove", Verdict.FAILS, "the store says that a chunk which it has is not there")
        if await self._reader.exists(key):
            return Finding("remove", Verdict.FAILS, "a chunk that was removed is still there")
        await self._keys.remove(self._connector)
        return Finding("remove", Verdict.GOOD, "all that was written is gone")

    async def _chunk(self, nbytes: int) -> MemoryObj:
        shape = (2, 1, nbytes // _TOKEN_BYTES, _TOKEN_BYTES // 4)
        return await self._backend.allocate_async(shape, "bfloat16", timeout=self._timeout)


_LOSES: Final = "see the server's memory and its policy, and whether something between alters or drops data"


def _words(error: LMCacheConnectError) -> str:
    return error.message if isinstance(error, StoreError) else str(error)
