"""`Sorting`: what is to be done with each key of a source, by what both stores say of it without its payload."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from ...contract import KeyFacts
from ...errors import InvalidKeyError
from ...managed import ManagedConnector
from .comparing import Sameness, compared
from .journal import Journal
from .store_wait import StoreWait
from .tally import Outcome, Tally
from .window import Item, Job

Sorted = dict[Job, list[Item]]


class Sorting:
    """Asks both stores about keys, counts what needs nothing more, and returns the rest."""

    def __init__(
        self,
        source: ManagedConnector,
        destination: ManagedConnector,
        tally: Tally,
        wait: StoreWait,
        *,
        overwrite: bool,
        verify: bool,
        dry_run: bool,
        journal: Journal | None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._tally = tally
        self._store_wait = wait
        self._overwrite = overwrite
        self._verify = verify
        self._dry_run = dry_run
        self._journal = journal

    async def sort(self, keys: Sequence[str]) -> Sorted:
        """Returns what is to be done with keys.

        Raises:
            LMCacheConnectError: a store has failed.
        """
        there = await self._there(keys)
        present = [key for key in keys if there.get(key) is not None]
        absent = [key for key in keys if key in there and there[key] is None]
        of_absent, of_present, at_destination = await asyncio.gather(
            self._described(self._source, absent, records=False),
            self._described(self._source, present, records=True),
            self._described(self._destination, present, records=True),
        )
        todo: Sorted = {job: [] for job in Job}
        for key, facts in of_absent.items():
            if facts is None:
                self._tally.add(Outcome.MISSING, key)
            else:
                self._copy(todo, Item(key, facts))
        await self._sort_present(todo, of_present, at_destination)
        return todo

    async def _sort_present(
        self, todo: Sorted, source: dict[str, KeyFacts | None], destination: dict[str, KeyFacts | None]
    ) -> None:
        same: list[Item] = []
        for key, facts in source.items():
            if facts is None:
                self._tally.add(Outcome.MISSING, key)
                continue
            item = Item(key, facts, destination[key])
            if item.destination is None:
                self._copy(todo, item)
                continue
            match compared(facts, item.destination):
                case Sameness.SAME:
                    same.append(item)
                case Sameness.DIFFERENT if facts.is_sound and not self._overwrite:
                    self._tally.add(Outcome.DIFFERS, key, item.size, _difference(item))
                case Sameness.DIFFERENT if facts.is_sound:
                    self._copy(todo, item)
                case _ if self._journal is not None and self._journal.knows(key, facts, item.destination):
                    self._tally.by_state += 1
                    same.append(item)
                case _ if self._dry_run:
                    self._tally.uncompared += 1
                case _:
                    todo[Job.COMPARE].append(item)
        if self._verify and not self._dry_run:
            todo[Job.VERIFY] += same
        else:
            for item in same:
                self._tally.add(Outcome.SKIPPED, item.key, item.size)
        if not self._dry_run:
            await self.mend_ttls(same)

    async def mend_ttls(self, same: Sequence[Item]) -> None:
        """Sets the time to live of chunks that have none at the destination, and one at the source.

        They were copied by a run that ended before it could set it, or by something else.
        """
        if not self._destination.support_expiry():
            return
        due = {
            item.key: left
            for item in same
            if (left := item.ttl_left) is not None
            and left > 0
            and item.destination is not None
            and item.destination.ttl == math.inf
        }
        if due:
            flags = await self._store_wait.call(lambda: self._destination.expire([*due], [*due.values()]))
            self._tally.ttls_set += sum(flags)

    def _copy(self, todo: Sorted, item: Item) -> None:
        if self._dry_run:
            self._tally.add(Outcome.COPIED, item.key, item.size)
            self._tally.replaced += item.destination is not None
        else:
            todo[Job.COPY].append(item)

    async def _there(self, keys: Sequence[str]) -> dict[str, KeyFacts | None]:
        """Returns what the destination says of keys. Those that it cannot have are counted, and left out."""
        try:
            return await self._described(self._destination, keys, records=False)
        except InvalidKeyError as error:
            if len(keys) == 1:
                self._tally.add(Outcome.FAILED, keys[0], why=str(error))
                return {}
        found: dict[str, KeyFacts | None] = {}
        for key in keys:
            found |= await self._there([key])
        return found

    async def _described(
        self, connector: ManagedConnector, keys: Sequence[str], *, records: bool
    ) -> dict[str, KeyFacts | None]:
        if not keys:
            return {}
        told = await self._store_wait.call(lambda: connector.describe(keys, records=records))
        return dict(zip(keys, told, strict=True))


def _difference(item: Item) -> str:
    there = item.destination
    if there is None:
        return ""
    if not there.is_sound:
        return "the destination's record is damaged: " + (there.problem or "pieces of it are missing")
    if item.source.metadata != there.metadata:
        return "the destination holds a chunk of another shape, dtype or format"
    return "the destination holds other bytes"
