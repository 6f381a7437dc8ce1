"""`Moving`: deals with windows of a copy: gets chunks, compares them, puts them, and reads them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...errors import LMCacheConnectError
from ...managed import ManagedConnector
from ...memory import MemoryObj, release_all
from ..frame.payloads import Payload, Reading, read_payload
from .comparing import matches_sums, same_chunk
from .journal import Journal
from .limits import RateLimit
from .sorting import Sorting
from .store_wait import StoreWait, concerns_all
from .tally import Outcome, Tally
from .window import Item, Job, Window

_OUTCOMES: Final = {
    Reading.MISSING: Outcome.MISSING,
    Reading.DAMAGED: Outcome.DAMAGED,
    Reading.TOO_LARGE: Outcome.FAILED,
}

Pairs = list[tuple[Item, MemoryObj]]
"""Keys with their chunks. The list has a reference of each."""


class Moving:
    """Deals with one window at a time for each worker. What becomes of each key is counted once."""

    def __init__(
        self,
        source: ManagedConnector,
        destination: ManagedConnector,
        tally: Tally,
        wait: StoreWait,
        sorting: Sorting,
        rate: RateLimit,
        *,
        overwrite: bool,
        verify: bool,
        ttl: float | None,
        journal: Journal | None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._tally = tally
        self._store_wait = wait
        self._sorting = sorting
        self._rate = rate
        self._overwrite = overwrite
        self._verify = verify
        self._ttl = ttl
        self._journal = journal

    async def deal_with(self, window: Window) -> None:
        """Does what a window is for.

        Raises:
            LMCacheConnectError: a store fails, and not only for one of the keys.
        """
        match window.job:
            case Job.COPY:
                await self._copy(window.items)
            case Job.COMPARE:
                await self._compare(window.items)
            case Job.VERIFY:
                for item in window.items:
                    await self._verify_same(item)

    # ------------------------------------------------------------------------------------------------- copying

    async def _copy(self, items: Sequence[Item]) -> None:
        await self._rate.pass_bytes(sum(item.size for item in items))
        pairs = await self._read_source(items)
        try:
            await self._store(pairs)
        finally:
            release_all([chunk for _, chunk in pairs])

    async def _store(self, pairs: Pairs) -> None:
        """Puts chunks, and counts what became of them."""
        stored = await self._put(pairs)
        lost = await self._set_ttls(stored)
        right: Pairs = []
        for item, chunk in stored:
            why = "it has gone from the destination at once, which may be full" if item.key in lost else ""
            if not why and self._verify:
                why = await self._wrong_at_destination(item, chunk)
                self._tally.verified += not why
            if why:
                self._tally.add(Outcome.FAILED, item.key, chunk.get_size(), why)
                continue
            self._tally.add(Outcome.COPIED, item.key, chunk.get_size())
            self._tally.replaced += item.destination is not None
            right.append((item, chunk))
        await self._note(right)

    async def _put(self, pairs: Pairs) -> Pairs:
        """Puts chunks. Returns those that were stored; the others are counted."""
        if not pairs:
            return []
        try:
            await self._put_together(pairs)
        except LMCacheConnectError as error:
            if concerns_all(error):
                raise
            if len(pairs) == 1:
                [(item, chunk)] = pairs
                self._tally.add(Outcome.FAILED, item.key, chunk.get_size(), str(error))
                return []
        else:
            return pairs
        stored: Pairs = []
        for pair in pairs:  # one of them is what the store refuses
            stored += await self._put([pair])
        return stored

    async def _put_together(self, pairs: Pairs) -> None:
        keys = [item.key for item, _ in pairs]
        chunks = [chunk for _, chunk in pairs]
        await self._store_wait.call(lambda: self._destination.batched_put(keys, chunks))

    async def _set_ttls(self, pairs: Pairs) -> set[str]:
        """Sets the times to live of chunks that were stored. Returns the keys that are not there any more."""
        due: dict[str, float] = {}
        for item, _ in pairs:
            left = self._ttl if self._ttl is not None else item.ttl_left
            if left is None:
                continue
            if not self._destination.support_expiry():
                self._tally.ttls_lost += 1
            else:
                due[item.key] = max(left, 0.001)  # what has expired meanwhile is not to stay
        if not due:
            return set()
        flags = await self._store_wait.call(lambda: self._destination.expire([*due], [*due.values()]))
        self._tally.ttls_set += sum(flags)
        return {key for key, flag in zip(due, flags, strict=True) if not flag and due[key] >= 1}

    # ----------------------------------------------------------------------------------------------- comparing

    async def _compare(self, items: Sequence[Item]) -> None:
        """Reads one store's chunks, and both where one has no checksums, and copies what differs, if that is wanted."""
        await self._rate.pass_bytes(sum(item.size for item in items))
        here: list[Item] = []
        there: list[Item] = []
        for item in items:
            (there if _is_read_there(item) else here).append(item)
        same = [item for item in there if await self._matches_source(item)]
        by_key = {item.key for item in same}
        here += [item for item in there if item.key not in by_key]
        differing: Pairs = []
        pairs = await self._read_source(here)
        try:
            for item, chunk in pairs:
                if await self._matches_destination(item, chunk):
                    same.append(item)
                    self._tally.add(Outcome.SKIPPED, item.key, chunk.get_size())
                    await self._note([(item, chunk)])
                elif self._overwrite:
                    differing.append((item, chunk))
                else:
                    self._tally.add(Outcome.DIFFERS, item.key, chunk.get_size(), "the destination holds other bytes")
            await self._store(differing)
        finally:
            release_all([chunk for _, chunk in pairs])
        await self._sorting.mend_ttls(same)

    async def _matches_source(self, item: Item) -> bool:
        """Whether the destination's chunk is the source's by the source's checksums. Counts it if so."""
        found = await self._read_one(self._destination, item)
        if found.chunk is None:
            return False
        with found.chunk as chunk:
            if chunk.metadata != item.source.metadata or not await matches_sums(chunk, item.source.sums):
                return False
            self._tally.add(Outcome.SKIPPED, item.key, chunk.get_size())
            self._tally.verified += self._verify
            await self._note([(item, chunk)])
        return True

    async def _matches_destination(self, item: Item, chunk: MemoryObj) -> bool:
        facts = item.destination
        if facts is None or not facts.is_sound:
            return False
        if facts.sums and facts.metadata is not None and not self._verify:
            return facts.metadata == chunk.metadata and await matches_sums(chunk, facts.sums)
        is_same = not await self._wrong_at_destination(item, chunk)
        self._tally.verified += self._verify and is_same
        return is_same

    async def _verify_same(self, item: Item) -> None:
        """Reads a chunk that is the same by its checksum, to see that its payload is still what that says."""
        await self._rate.pass_bytes(item.size)
        found = await self._read_one(self._destination, item)
        if found.chunk is not None:
            with found.chunk as chunk:
                if item.source.metadata == chunk.metadata and await matches_sums(chunk, item.source.sums):
                    self._tally.verified += 1
                    self._tally.add(Outcome.SKIPPED, item.key, chunk.get_size())
                    return
            found = Payload(Reading.DAMAGED, why="it was replaced meanwhile")
        if found.reading is Reading.MISSING or (found.reading is Reading.DAMAGED and self._overwrite):
            await self._copy([item])
        else:
            self._tally.add(Outcome.DIFFERS, item.key, item.size, f"the destination's record: {found.why}")

    async def _wrong_at_destination(self, item: Item, chunk: MemoryObj) -> str:
        """Why the destination's chunk is not this one, as it is read back. "": it is."""
        found = await self._read_one(self._destination, item)
        if found.chunk is None:
            return f"read back from the destination, it is {found.reading}" + (f": {found.why}" if found.why else "")
        with found.chunk as other:
            return "" if await same_chunk(chunk, other) else "read back from the destination, it has other bytes"

    # ------------------------------------------------------------------------------------------------- reading

    async def _read_source(self, items: Sequence[Item]) -> Pairs:
        """Reads chunks of the source. Counts those that it does not give."""
        if not items:
            return []
        keys = [item.key for item in items]
        pairs: Pairs = []
        slots = await self._store_wait.call(lambda: self._source.batched_get(keys))
        try:
            for at, item in enumerate(items):
                chunk, slots[at] = slots[at], None
                if chunk is None:  # why, a batch does not tell
                    found = await self._read_one(self._source, item)
                    if found.chunk is None:
                        self._tally.add(_OUTCOMES[found.reading], item.key, item.size, found.why)
                        continue
                    chunk = found.chunk
                pairs.append((item, chunk))
        except BaseException:
            release_all([chunk for _, chunk in pairs])
            release_all(slots)
            raise
        return pairs

    async def _read_one(self, connector: ManagedConnector, item: Item) -> Payload:
        return await self._store_wait.call(lambda: read_payload(connector, item.key, item.source))

    async def _note(self, pairs: Pairs) -> None:
        """Notes in the state file what both stores' records look like, of chunks that are the same there."""
        if self._journal is None or not pairs:
            return
        keys = [item.key for item, _ in pairs]
        source = await self._store_wait.call(lambda: self._source.describe(keys, records=True))
        destination = await self._store_wait.call(lambda: self._destination.describe(keys, records=True))
        noted = []
        for (item, chunk), one, other in zip(pairs, source, destination, strict=True):
            if one is None or other is None:
                continue
            # Either may have been replaced since: then its checksums are of another chunk.
            if await matches_sums(chunk, one.sums) and await matches_sums(chunk, other.sums):
                noted.append((item.key, one, other))
        self._journal.note(noted)


def _is_read_there(item: Item) -> bool:
    """Whether the destination's payload is read, and not the source's.

    Of the two, the one in more parts: its store is the nearer one, since those that keep chunks in one part are S3's.
    """
    there = item.destination
    return (
        there is not None
        and bool(item.source.sums)
        and item.source.metadata is not None
        and len(there.sums) > len(item.source.sums)
    )
