"""`Callers`: the operations that wait for one fetch, as the one operation that the store's connector sees."""

from __future__ import annotations

import math

from lmcache_connect.contract import Deadlined


class Callers:
    """Stands for every operation that waits for a fetch: its deadline is the latest of theirs."""

    def __init__(self) -> None:
        self._waiting: list[Deadlined | None] = []  # their operations; None for a caller without one
        self._has_released = False

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, operation: Deadlined | None) -> None:
        """Adds a caller. `operation` is the one that is under way in its context; None: it has no operation."""
        self._waiting.append(operation)
        if self._has_released and operation is not None:
            operation.release_share()

    def leave(self, operation: Deadlined | None) -> None:
        """Takes a caller away that has joined with `operation`."""
        self._waiting.remove(operation)

    @property
    def deadline(self) -> float:
        """When the last of them has to end, by the loop's clock."""
        return max((math.inf if each is None else each.deadline for each in self._waiting), default=-math.inf)

    def release_share(self) -> None:
        """Has each release its share of the byte budget, also those that join later: the fetch waits for room."""
        self._has_released = True
        for each in self._operations():
            each.release_share()

    def renew(self) -> None:
        """Lets the deadline of each begin again."""
        for each in self._operations():
            each.renew()

    def note_missed(self, reason: str, keys: int) -> None:
        """Counts the keys for each: all of them miss them."""
        for each in self._operations():
            each.note_missed(reason, keys)

    def _operations(self) -> list[Deadlined]:
        return [each for each in self._waiting if each is not None]
