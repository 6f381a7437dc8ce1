"""`Load`: how much one call asks for: how many keys, and how many bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from ..config import ConnectorConfig

KEY_SECONDS: Final = 0.01
"""How much later the deadline of a look-up or removal is for each further key. A slow store makes 100 a second."""


class Load(NamedTuple):
    """What one call is about: its number of keys, and how many bytes it moves or may move."""

    items: int = 1
    deadline_bytes: int = 0
    """Bytes that the deadline allows time for."""
    budget_bytes: int = 0
    """Bytes that are taken from the byte budget meanwhile."""
    sent_bytes: int = 0
    """Bytes that the store has got when the call has succeeded. What it gives is counted by `Operation.count`."""
    deadline_keys: int = 0
    """Keys that the deadline allows time for, `KEY_SECONDS` each."""

    def seconds(self, settings: ConnectorConfig) -> float:
        """Returns the seconds that the call has."""
        more = self.deadline_bytes / settings.min_throughput + self.deadline_keys * KEY_SECONDS
        return settings.operation_timeout + more


# Kept, because most calls ask for as much as others did: a new one costs a small call more than a look-up of it.


@lru_cache
def load_of_get(items: int, deadline_bytes: int, budget_bytes: int) -> Load:
    """The load of a call that receives chunks, of which each may have as many bytes."""
    return Load(items, items * deadline_bytes, items * budget_bytes)


@lru_cache
def load_of_put(items: int, nbytes: int) -> Load:
    """The load of a call that sends `nbytes`."""
    return Load(items, nbytes, nbytes, nbytes)


@lru_cache
def load_of_transfer(items: int, nbytes: int) -> Load:
    """The load of a call that moves up to `nbytes`, all together. What it has moved is counted by `Operation.count`."""
    return Load(items, nbytes, nbytes)


@lru_cache
def load_of_keys(items: int) -> Load:
    """The load of a call that looks keys up, or removes them."""
    return Load(items, deadline_keys=max(items - 1, 0))


ONE_KEY: Final = Load()
"""The load of a call for one key that moves no chunk."""
