"""What happened, in numbers and in structured log events. No URL and no key value ever becomes a label."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

logger: Final = logging.getLogger("lmcache_connect")


@dataclass
class OperationStatistics:
    """Counters of one operation on one store since the connector was made. Times are seconds, sizes bytes.

    `queue_seconds` is time spent waiting for the loop's turn and the byte budget; `wire_seconds` the rest.
    """

    calls: int = 0
    items: int = 0
    hits: int = 0
    misses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    bytes: int = 0
    queue_seconds: float = 0.0
    wire_seconds: float = 0.0
    in_flight: int = 0


class StoreMetrics:
    """The counters of one connector, by operation name. Thread-safe for readers."""

    def __init__(self, store: str) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._operations: dict[str, OperationStatistics] = {}

    def operation(self, name: str) -> OperationStatistics:
        """The live counters of one operation."""
        found = self._operations.get(name)
        if found is None:
            with self._lock:
                found = self._operations.setdefault(name, OperationStatistics())
        return found

    def snapshot(self) -> dict[str, OperationStatistics]:
        """A copy of all counters."""
        with self._lock:
            return {
                name: OperationStatistics(
                    **{**vars(live), "misses": Counter(live.misses), "errors": Counter(live.errors)}
                )
                for name, live in self._operations.items()
            }


def event(level: int, name: str, /, **facts: Any) -> None:
    """Logs one event: a readable line, and the same facts as fields of the record (`record.connect`)."""
    if logger.isEnabledFor(level):
        text = " ".join(f"{key}={value}" for key, value in facts.items())
        logger.log(level, "%s %s", name, text, extra={"connect": {"event": name, **facts}})
