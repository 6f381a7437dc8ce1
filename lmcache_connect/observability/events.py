"""Structured log events."""

from __future__ import annotations

import logging
from typing import Any, Final

from ..known_secrets import clean, in_one_line

logger: Final = logging.getLogger("lmcache_connect")

_LONGEST: Final = 2000
"""The most characters of one fact in a log line."""


def event(level: int, name: str, /, **facts: Any) -> None:
    """Logs one event as a readable line. The log record's attribute `connect` has the same facts as a dict.

    No fact holds a known secret, a line break or another control character, nor more than 2,000 characters: a key or
    a server's words cannot make up a line of their own.
    """
    if logger.isEnabledFor(level):
        shown = {key: _shown(value) for key, value in facts.items()}
        text = " ".join(f"{key}={value}" for key, value in shown.items())
        logger.log(level, "%s %s", name, text, extra={"connect": {"event": name, **shown}})


def _shown(fact: Any) -> Any:
    if fact is None or isinstance(fact, bool | int | float):
        return fact
    text = clean(str(fact))
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}... ({len(text)} characters)"
    return in_one_line(text)
