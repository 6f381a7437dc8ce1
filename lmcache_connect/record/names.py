"""The names under which chunks stand in a store of flat keys, such as Redis. Layout 2.

    prefix:{key} 0x1F 2         the chunk
    prefix:{key} 0x1F <16 hex>  a large chunk while it is written; it expires soon unless it becomes the chunk
    prefix:{key} 0x1F <32 hex>.<number>  a piece of a spread chunk, by the random number of its put and its own, from 0

Without a prefix the name begins with the brace. The braces make both names lie in the same slot of a Redis Cluster,
which takes what is inside the first pair for the hash. So a brace inside a key is written as 0x1E and a parenthesis.
Neither 0x1E nor 0x1F can be in a key. Release 0.1 stored a chunk as `prefix:key`, and never looks at these names.
Source of the slot rule: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from secrets import token_hex
from typing import Final

from .spread import PUT_BYTES, SpreadPlan

SEPARATOR: Final = "\x1f"

_END: Final = "}" + SEPARATOR + "2"
_PIECE: Final = re.compile(f"[0-9a-f]{{{2 * PUT_BYTES}}}[.][0-9]{{1,3}}")
_BRACES: Final = str.maketrans({"{": "\x1e(", "}": "\x1e)"})


def chunk_names(prefix: str, keys: Sequence[str]) -> list[str]:
    """The name of each key's chunk. `prefix` is empty, or ends with ':'."""
    together = "".join(keys)
    if "{" in together or "}" in together:
        keys = [key.translate(_BRACES) for key in keys]
    return [f"{prefix}{{{key}{_END}" for key in keys]


def staging_name(name: str) -> str:
    """A new name under which one put writes the chunk, or the piece of a spread one, that will be `name`."""
    return f"{name.rpartition(SEPARATOR)[0]}{SEPARATOR}{token_hex(8)}"


def piece_names(name: str, plan: SpreadPlan) -> list[str]:
    """The names of the pieces of the spread chunk `name`."""
    start = f"{name.rpartition(SEPARATOR)[0]}{SEPARATOR}{plan.put.hex()}."
    return [f"{start}{index}" for index in range(plan.pieces)]


PIECES_PATTERN: Final = "}" + SEPARATOR + 2 * PUT_BYTES * "?" + ".*"
"""What the names of all pieces of spread chunks end with, as a pattern of Redis."""


def chunk_of_piece(name: str) -> str | None:
    """The name of the spread chunk that the piece with this name belongs to. None for a name of any other kind."""
    start, separator, end = name.rpartition(SEPARATOR)
    if not separator or _PIECE.fullmatch(end) is None:
        return None
    return f"{start}{SEPARATOR}2"


def key_of_name(prefix: str, name: str) -> str | None:
    """The key whose chunk has this name. None for any other name."""
    if not name.startswith(prefix + "{") or not name.endswith(_END):
        return None
    key = name[len(prefix) + 1 : -len(_END)]
    return key.replace("\x1e(", "{").replace("\x1e)", "}")


def start_of_names(prefix: str, key_prefix: str) -> str:
    """What the names of all chunks begin with whose keys begin with `key_prefix`."""
    return f"{prefix}{{{key_prefix.translate(_BRACES)}"


END_OF_NAMES: Final = _END
"""What the names of all chunks end with."""
