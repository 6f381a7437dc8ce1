"""`CommonFacts`: what a server says of a key whatever is stored under it: time to live, memory, and when it was used.

None of these commands counts as a use of the key, so that looking at a store does not change what it evicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..protocol.questions import Answer, number_of
from ..protocol.replies import encode_command

COUNT: Final = 3
"""How many commands `questions_about` makes."""

_GONE: Final = -2
_NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class CommonFacts:
    """What is known of one key. None: the server did not say."""

    is_there: bool | None
    ttl: float | None
    memory: int | None
    idle: float | None

    @classmethod
    def of(cls, answers: list[Answer]) -> CommonFacts:
        """Returns what the answers to `questions_about` say."""
        idle, left, memory = answers
        ttl = number_of(left)
        used = number_of(memory)
        is_there: bool | None = None
        if ttl is not None:
            is_there = ttl != _GONE
        elif not isinstance(memory, Exception):
            is_there = used is not None
        seconds = None if ttl is None or ttl == _GONE else math.inf if ttl == _NEVER else ttl / 1000
        idle_for = number_of(idle)
        return cls(is_there, seconds, used, None if idle_for is None else float(idle_for))


def questions_about(name: bytes) -> list[bytes]:
    """Returns the commands for one key. Whether it was used lately comes first."""
    return [
        encode_command(b"OBJECT", b"IDLETIME", name),
        encode_command(b"PTTL", name),
        encode_command(b"MEMORY", b"USAGE", name),
    ]
