"""`SingleGets`: a batched get of a connector that has none of its own: a get of each key, some of them side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from ..errors import ArenaExhaustedError, CorruptRecordError, LMCacheConnectError
from ..keys import Key
from ..memory import MemoryObj, release_all
from .batch_slots import BatchSlots
from .batches import BATCH_CONCURRENCY, gather
from .time_left import note_missed


class SingleGets:
    """Gets the chunks of one batch. What is wrong with one key is a miss in its own slot.

    An exception of the author's own may be of one key or of a store that fails meanwhile, which must not look like a
    miss. To tell, the store is asked once more for a key that it has answered.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        get: Callable[[Key], Awaitable[MemoryObj | None]],
        exists: Callable[[Key], Awaitable[bool]],
        discard_corrupt: Callable[[Key, CorruptRecordError], Awaitable[None]],
        tell: Callable[[Exception], None],
    ) -> None:
        """`discard_corrupt` is called for records that do not verify, `tell` for exceptions of the author's own."""
        self._keys: Final = keys
        self._get: Final = get
        self._exists: Final = exists
        self._discard: Final = discard_corrupt
        self._tell: Final = tell
        self._slots: Final = BatchSlots(len(keys))
        self._answered: Key | None = None
        self._failures: list[Exception] = []

    async def run(self) -> list[MemoryObj | None]:
        """Returns one slot per key. When it raises, nothing is held. See `RemoteConnector.batched_get`."""
        slots = self._slots
        try:
            await gather([partial(self._fetch, slot) for slot in range(len(self._keys))])
            if slots.dropped:  # later ones had the room of earlier ones, which take it now in their order
                for slot in slots.reopened():
                    await self._fetch(slot)
            if self._failures and self._answered is not None:
                await self._exists(self._answered)  # raises where it was the store
            slots.count_unwanted()
            for failure in self._failures:
                self._tell(failure)
                note_missed(f"failed:{type(failure).__name__}")
        except BaseException:
            release_all(slots.found)
            raise
        return slots.found

    async def _fetch(self, slot: int) -> None:
        slots, key = self._slots, self._keys[slot]
        if slot >= slots.wanted:
            return
        try:
            slots.found[slot] = await self._get(key)
            self._answered = key
        except CorruptRecordError as error:
            self._answered = key
            await self._discard(key, error)
        except ArenaExhaustedError as error:
            self._answered = key
            if not slots.no_room(slot, error):
                await self._discard(key, CorruptRecordError("too_large", str(error)))
        except (LMCacheConnectError, OSError):
            raise
        except Exception as error:
            count = len(self._failures) + 1
            if count == len(self._keys) or (count >= BATCH_CONCURRENCY and self._answered is None):
                raise  # it is not one key: nothing comes at all
            self._failures += [error.with_traceback(None)]  # whose frames may hold memory
        slots.drop_unwanted()  # also what was on its way when the room ended: earlier ones wait for it
