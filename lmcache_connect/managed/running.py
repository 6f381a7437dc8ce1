"""`Running`: one operation that is under way."""

from __future__ import annotations

import anyio


class Running:
    """One operation that is under way, from its admission to its end."""

    __slots__ = ("corrupt", "deadline", "is_late", "scope")

    def __init__(self, scope: anyio.CancelScope, deadline: float) -> None:
        self.scope = scope
        """What the operation runs in."""
        self.deadline = deadline
        """When it has to end, by its loop's clock."""
        self.is_late = False
        """Whether it was cancelled because its deadline had passed."""
        self.corrupt: tuple[str, ...] = ()
        """The reason of each corrupt record that its last attempt has met."""
