"""`Probe`: what is known about one key of vLLM's, while a request asks for it."""

from __future__ import annotations


class Probe:
    """One key that requests ask for. Owned by the scheduler's side: other threads read `key` alone."""

    __slots__ = ("due", "failed", "found", "is_asked", "key", "users")

    def __init__(self, key: bytes, due: float) -> None:
        self.key = key
        self.due = due
        """The moment, of the monotonic clock, from which the key counts as missing if no answer has come."""
        self.found: bool | None = None
        """Whether the store has it; None: not known yet."""
        self.failed = False
        """Whether a load of it has failed since. It then stays missing for the requests that ask."""
        self.is_asked = False
        """Whether the store was asked and has not answered yet."""
        self.users = 0
        """How many requests ask for it."""
