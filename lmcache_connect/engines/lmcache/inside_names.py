"""`name_of`: the store's name for a chunk of LMCache's in-process mode."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

_HASHED: Final = "~tags"
"""The name of the one tag that stands for tags which LMCache's text does not keep apart."""


def name_of(key: Any) -> str:
    """LMCache's own text of its key, which the same key has everywhere. Different keys give different names.

    LMCache writes `model@world@worker@hash@dtype[@tag%value...]`. What is in front of the tags is unambiguous, also
    where the model's name holds an `@`, since none of the four parts behind it does. Tags are not: one whose value is
    `a@u%b` reads like two. Tags with an `@`, or with a `%` in their names, stand in the name as one with their digest.
    """
    text: str = key.to_string()
    tags = key.tags
    if not tags or not any(_is_ambiguous(str(tag), str(value)) for tag, value in tags):
        return text
    written = "".join(f"@{tag}%{value}" for tag, value in tags)
    return f"{text.removesuffix(written)}@{_HASHED}%{_digest(tags)}"


def _is_ambiguous(tag: str, value: str) -> bool:
    return "@" in tag or "%" in tag or "@" in value or tag == _HASHED


def _digest(tags: Iterable[tuple[Any, Any]]) -> str:
    made = hashlib.blake2b(digest_size=16, person=b"lmcache tags")
    for part in (str(each) for pair in tags for each in pair):
        data = part.encode("utf-8", "surrogatepass")
        made.update(len(data).to_bytes(8, "big") + data)
    return made.hexdigest()
