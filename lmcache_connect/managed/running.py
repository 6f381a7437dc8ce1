"""`Running`: one operation that is under way."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from .byte_budget import ByteBudget


class Running:
    """One operation that is under way, from its admission to its end."""

    __slots__ = ("_budget", "_now", "_seconds", "_share", "deadline", "is_late", "missed", "renewed", "scope")

    def __init__(self, scope: anyio.CancelScope, now: Callable[[], float], seconds: float) -> None:
        self.scope = scope
        """What the operation runs in."""
        self._now = now
        self._seconds = seconds
        self.deadline = now() + seconds
        """When it has to end, by its loop's clock."""
        self.is_late = False
        """Whether it was cancelled because its deadline had passed."""
        self.renewed = 0.0
        """Seconds by which the deadline was moved."""
        self._budget: ByteBudget | None = None
        self._share = 0
        self.missed: tuple[str, ...] = ()
        """For each key that its last attempt has missed, and that the store may hold, the reason."""

    async def take(self, budget: ByteBudget, nbytes: int) -> None:
        """Waits for `nbytes` of the budget, until `release_share`."""
        await budget.acquire(nbytes)
        self._budget, self._share = budget, nbytes

    def release_share(self) -> None:
        """Releases its share of the byte budget: it moves no bytes now. Idempotent."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.release(self._share)

    def note_missed(self, reason: str, keys: int) -> None:
        """Adds keys that its last attempt has missed, by the reason."""
        self.missed += (reason,) * keys

    def renew(self) -> None:
        """Lets the deadline begin again, since the operation has got on."""
        if not self.is_late:
            before, self.deadline = self.deadline, self._now() + self._seconds
            self.renewed += self.deadline - before
