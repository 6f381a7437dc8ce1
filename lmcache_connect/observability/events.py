"""Structured log events."""

from __future__ import annotations

import logging
from typing import Any, Final

logger: Final = logging.getLogger("lmcache_connect")


def event(level: int, name: str, /, **facts: Any) -> None:
    """Logs one event as a readable line. The log record's attribute `connect` has the same facts as a dict."""
    if logger.isEnabledFor(level):
        text = " ".join(f"{key}={value}" for key, value in facts.items())
        logger.log(level, "%s %s", name, text, extra={"connect": {"event": name, **facts}})
