"""`Refusal`: a store that has refused the login is not asked again for a while."""

from __future__ import annotations

from typing import Final

MOST_SECONDS: Final = 30.0
"""The longest pause between two attempts."""


class Refusal:
    """What to answer while a store that refuses the login, or whose certificate is wrong, is not asked.

    After each pause one attempt is made. Each doubles the next pause, until one succeeds. The circuit breaker does not
    see such a store: it has answered. Belongs to one event loop, whose clock's seconds it is given.
    """

    def __init__(self, pause: float) -> None:
        """`pause` is the first pause, in seconds."""
        self._first = pause
        self._pause = pause
        self._until = 0.0
        self._answer: tuple[str, str] | None = None

    @property
    def answer(self) -> tuple[str, str] | None:
        """The class and the text of the last refusal; None where the store has refused nothing. From any thread."""
        return self._answer

    def begin(self, now: float, reason: str, error: str) -> None:
        """The store has refused. `reason` is the class of the error, and `error` its text."""
        if self._answer is None:
            self._until = now + self._pause
        self._answer = (reason, error)

    def end(self) -> None:
        """The store has answered a call."""
        self._answer = None
        self._pause = self._first

    def now(self, now: float) -> tuple[str, str] | None:
        """The answer of a call that is not made: a reason and an error. None: it is to be made."""
        if self._answer is None or now < self._until:
            return self._answer
        self._pause = min(2 * self._pause, MOST_SECONDS)
        self._until = now + self._pause  # others are answered meanwhile
        return None
