"""`ClusterView`: the answer of one node of a cluster to CLUSTER NODES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from .server_group import text_of

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class NodeLine:
    """What a node says of one of them."""

    flags: frozenset[str]
    primary: str | None
    is_linked: bool
    slots: Ranges


@dataclass(frozen=True)
class ClusterView:
    """By their identifiers, the nodes that one node knows. It is as old as the answer."""

    lines: dict[str, NodeLine]

    @classmethod
    def parse(cls, answer: object) -> Self:
        """Reads an answer. Slots that are on their way are their owner's."""
        lines: dict[str, NodeLine] = {}
        for line in text_of(answer).splitlines():
            identifier, _, flags, primary, _, _, _, link, *slots = line.split(" ")
            ranges = sorted(_range(slot) for slot in slots if not slot.startswith("["))
            lines[identifier] = NodeLine(
                frozenset(flags.split(",")),
                primary if primary != "-" else None,
                link == "connected",
                tuple(ranges),
            )
        return cls(lines)

    def linked(self) -> set[str]:
        """Those that the node is linked to and holds for well, and itself."""
        bad = {"fail", "fail?", "handshake", "noaddr"}
        return {
            identifier
            for identifier, line in self.lines.items()
            if "myself" in line.flags or (line.is_linked and not line.flags & bad)
        }

    def owners(self) -> dict[tuple[int, int], str]:
        """Who owns which slots, the first and the last of each range."""
        return {slots: identifier for identifier, line in self.lines.items() for slots in line.slots}

    def owner_of(self, slot: int) -> str | None:
        """Who owns a slot; None where nobody does."""
        return next((owner for (first, last), owner in self.owners().items() if first <= slot <= last), None)

    def slots_of(self, identifier: str) -> Ranges:
        """The ranges of slots of one node; () for a replica, and for a node that is not known."""
        line = self.lines.get(identifier)
        return line.slots if line is not None else ()

    def primary_of(self, identifier: str) -> str | None:
        """The primary of a replica; None for a primary, and for a node that is not known."""
        line = self.lines.get(identifier)
        return line.primary if line is not None else None


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)
