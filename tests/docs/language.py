"""Words and sentences that stop a reader, and how they are found in a text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Final

MAX_WORDS: Final = 45
"""The longest sentence of a docstring, in words."""

WORDS: Final[dict[str, str]] = {
    r"who(?:so)?ever": "name the caller, the author or the operator",
    r"anew": "`again`, or `recreate`",
    r"(?<!there\s)(?:is|are|was|were) no(?!\s(?:longer|more|less|doubt))": "`is not a ...`",
    r"(?-i:is none)(?=[.,;:)])": "say what it is not",
    r"thrice": "`three times`",
    r"made good": "say what is repaired, and how",
    r"patience": "a get `waits in line for room`",
    r"settle[sd]?|settling": "futures are `resolved`, chunks are `done`, blocks are `reclaimed`",
    r"lends?|lent|lending|lender": "a thread `takes over` a wire; a connector is given a `view`, which is `revoked`",
    r"loans?|loaned": "connections are `acquired` and `released`",
    r"(?:gives?|given|gave|giving|takes?|taken)(?: \w+){0,2} back": "`release`, `hand back`, `revoke`",
    r"errands?": "a courier's `job`",
}
"""Words that stop a reader, and what to write instead."""


def words_to_avoid(text: str) -> Iterator[tuple[int, str]]:
    """The line and the complaint for each word of the list. A phrase may go over the end of a line."""
    for pattern, instead in WORDS.items():
        spaced = pattern.replace(" ", r"[\s#]+")
        for match in re.finditer(rf"(?<![a-zA-Z])(?:{spaced})(?![a-zA-Z])", text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            yield line, f"{' '.join(match.group().split())!r}: {instead}"


def sentences(docstring: str) -> Iterator[str]:
    """The sentences of a docstring; an indented block is a table or a list and has none."""
    for paragraph in re.split(r"\n\s*\n|\n\s*[-*|] ", inspect.cleandoc(docstring)):
        if not paragraph.startswith("    "):
            yield from re.split(r"(?<=[.!?:])\s+", paragraph)
