"""`Tally`: what became of the keys of a copy."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MOST_EXAMPLES: Final = 1000
"""Keys of each kind that are kept, with their reasons."""


class Outcome(StrEnum):
    """What became of a key."""

    COPIED = "copied"
    SKIPPED = "skipped"
    """The destination holds the same chunk."""
    DIFFERS = "differs"
    """The destination holds something else under the key, which stays without `--overwrite`."""
    DAMAGED = "damaged"
    """The source's record does not verify."""
    MISSING = "missing"
    """The source has lost it since it was listed."""
    FAILED = "failed"
    """It could not be copied: the reason says why."""


_BAD: Final = frozenset({Outcome.DIFFERS, Outcome.DAMAGED, Outcome.FAILED})


@dataclass(frozen=True, slots=True)
class Example:
    """A key, and why it was not copied."""

    key: str
    why: str


@dataclass
class Tally:
    """Counts, by outcome. Sizes are bytes of payload."""

    keys: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    nbytes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    examples: dict[Outcome, list[Example]] = field(default_factory=lambda: {outcome: [] for outcome in Outcome})
    verified: int = 0
    """Keys that were read back from the destination and found right."""
    replaced: int = 0
    """Keys of `COPIED` that stood for something else at the destination before."""
    ttls_set: int = 0
    """Keys that the destination was told to forget at the time at which the source does."""
    ttls_lost: int = 0
    """Keys that expire at the source, and not at the destination, which forgets nothing by a time."""
    by_state: int = 0
    """Keys of `SKIPPED` whose payloads were spared by the state file."""
    uncompared: int = 0
    """Keys of both stores that a dry run could not compare without their payloads."""

    def add(self, outcome: Outcome, key: str, nbytes: int = 0, why: str = "") -> None:
        """Counts a key."""
        self.keys[outcome] += 1
        self.nbytes[outcome] += nbytes
        if outcome in _BAD and len(self.examples[outcome]) < MOST_EXAMPLES:
            self.examples[outcome].append(Example(key, why))

    @property
    def seen(self) -> int:
        """All keys that were dealt with."""
        return sum(self.keys.values()) + self.uncompared

    @property
    def is_clean(self) -> bool:
        """Whether every key that the source still has is at the destination."""
        return not any(self.keys[outcome] for outcome in _BAD)
