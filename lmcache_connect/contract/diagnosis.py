"""What a connector can tell of its store beyond its calls: findings, each with what to do about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable


class Verdict(Enum):
    """How a finding is to be taken."""

    GOOD = "good"
    NOTE = "note"
    """It works, and could be better."""
    UNKNOWN = "unknown"
    """It could not be looked at."""
    HURTS = "hurts"
    """It works, and costs speed, memory or hits."""
    FAILS = "fails"
    """It does not work. The rest of the store may."""
    UNUSABLE = "unusable"
    """The store cannot be used. Nothing else needs to be tried."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis. No field holds a secret.

    Attributes:
        subject: what was looked at, such as `maxmemory-policy` or `write`.
        verdict: how it is.
        found: what was seen.
        advice: what to do about it; "" where nothing is to be done.
        servers: the servers that it is about, where a store has several; empty: the store.
    """

    subject: str
    verdict: Verdict
    found: str = ""
    advice: str = ""
    servers: tuple[str, ...] = ()


@runtime_checkable
class Diagnosable(Protocol):
    """A connector that can look at its store. The command `check` asks it before it tries the connector's calls."""

    def diagnose(self, timeout: float) -> AsyncIterator[Finding]:
        """Yields what it finds, in the order of what depends on what: first whether the store can be reached.

        Runs on the connector's event loop. Each step ends within `timeout` seconds, and a store that cannot be reached
        is one finding with `Verdict.UNUSABLE`, the last. It changes nothing in the store but keys of its own, under the
        connector's prefix, which it removes. It raises only faults of its own.
        """
        ...


@runtime_checkable
class TellsRoom(Protocol):
    """A connector that knows how full its store is. The command `bench` asks it before it writes."""

    async def bytes_free(self) -> int | None:
        """Returns how many bytes the store takes until it evicts or refuses. None: there is no limit, or nobody knows.

        Raises:
            StoreError: the store cannot be asked.
        """
        ...
