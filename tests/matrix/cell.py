"""`Cell`: what was seen of one fault on one connector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from .limits import AT_ONCE, DEADLINE, GIVEN_UP, LATE, WORKS_AT_ONCE, WORKS_SOON

Operation = Literal["put", "get"]
Mode = Literal["raise", "miss"]

OPERATIONS: Final[tuple[Operation, ...]] = ("put", "get")
MODES: Final[tuple[Mode, ...]] = ("raise", "miss")

WRONG: Final = "WRONG VALUE"
NEVER: Final = "never"


@dataclass(frozen=True)
class Seen:
    """What one call came to.

    Attributes:
        outcome: of a put `stored`, `dropped` (it returned, and the store does not have it) or the class of an error; of
            a get `value`, `miss`, the class of an error, or `WRONG VALUE`. Of an engine's client also `False`.
        when: `at once`, `in time` (by its deadline), or `LATE`.
        seconds: as measured. Not part of the document.
    """

    outcome: str
    when: str
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, outcome: str, seconds: float) -> Seen:
        if seconds <= AT_ONCE:
            return cls(outcome, "at once", seconds)
        return cls(outcome, "in time" if seconds <= DEADLINE + LATE else "LATE", seconds)


def next_works(seconds: float | None) -> str:
    """The class of how long after the end of a fault a call has worked. None: it has not."""
    if seconds is None or seconds > GIVEN_UP:
        return NEVER
    if seconds <= WORKS_AT_ONCE:
        return "at once"
    return f"within {WORKS_SOON:g} s" if seconds <= WORKS_SOON else f"within {GIVEN_UP:g} s"


@dataclass(frozen=True)
class Cell:
    """One fault on one connector.

    Attributes:
        seen: what each call came to, by operation and by error mode. A client of an engine has the mode `raise` alone.
        next: how long after the end of the fault a call worked, the slowest of all connectors.
        left: what was left when the connectors had been closed; empty where nothing was.
    """

    fault: str
    column: str
    seen: dict[str, dict[str, Seen]]
    next: str
    left: tuple[str, ...] = field(default=())

    def document(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "fault": self.fault,
            "column": self.column,
            "seen": {
                operation: {mode: [seen.outcome, seen.when] for mode, seen in modes.items()}
                for operation, modes in self.seen.items()
            },
            "next": self.next,
            "left": list(self.left),
        }

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Cell:
        """The cell of a document."""
        seen = {
            operation: {
                mode: Seen(outcome, when, document.get("seconds", {}).get(operation, {}).get(mode, 0.0))
                for mode, (outcome, when) in modes.items()
            }
            for operation, modes in document["seen"].items()
        }
        return cls(document["fault"], document["column"], seen, document["next"], tuple(document["left"]))
