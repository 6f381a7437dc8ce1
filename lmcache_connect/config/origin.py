"""`Origin`: where the value of a setting comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

OriginKind: TypeAlias = Literal["code", "URL", "environment", "file", "default"]


@dataclass(frozen=True)
class Origin:
    """The source of a setting. `place` is the variable's name, or the file with the line; "" for the other kinds."""

    kind: OriginKind
    place: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".rstrip()
