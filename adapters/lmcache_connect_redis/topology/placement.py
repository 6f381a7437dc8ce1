"""`Placement`: which of several servers has a key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

Address = tuple[str, int]
"""A host as it is written, and a port."""


class Placement(ABC):
    """Decides by names alone: the same name is always on the same server, until the servers change. From any thread."""

    @property
    @abstractmethod
    def addresses(self) -> Sequence[Address]:
        """The servers, each once."""

    @abstractmethod
    def place(self, names: Sequence[str]) -> dict[Address, list[int]]:
        """Returns for each server that has any of the names their positions in `names`, in ascending order."""

    @abstractmethod
    def address_of(self, name: str) -> Address:
        """Returns the server that has a name."""
