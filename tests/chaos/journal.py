"""`Journal`: what one process has seen: counts, times, violations. Kept in a file, for those that are killed."""

from __future__ import annotations

import json
import math
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final

_BUCKETS_PER_DOUBLING: Final = 8
_MOST_VIOLATIONS: Final = 200


class Journal:
    """Counts of one process, or of several together. Any thread may write."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        """How often something happened, by a name such as `calm put ok`."""
        self.times: dict[str, Counter[int]] = {}
        """By operation: how many calls took about as long as a bucket says."""
        self.violations: list[str] = []
        self.worst: dict[str, float] = {}
        """The largest value seen of each measure, such as `late`, in seconds."""

    def count(self, what: str, number: int = 1) -> None:
        """Counts something."""
        with self._lock:
            self.counts[what] += number

    def took(self, operation: str, seconds: float) -> None:
        """Takes the time of one call."""
        bucket = round(math.log2(max(seconds, 1e-6)) * _BUCKETS_PER_DOUBLING)
        with self._lock:
            self.times.setdefault(operation, Counter())[bucket] += 1

    def measure(self, what: str, value: float) -> None:
        """Keeps the value if it is the largest so far."""
        with self._lock:
            self.worst[what] = max(value, self.worst.get(what, value))

    def violate(self, text: str) -> None:
        """Notes that a rule was broken, and writes the file at once."""
        with self._lock:
            self.counts["violations"] += 1
            if len(self.violations) < _MOST_VIOLATIONS:
                self.violations.append(text)
        self.save()

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        if self._path is None:
            return
        with self._lock:
            text = json.dumps(self._document())
            draft = self._path.with_suffix(".new")
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, self._path)

    def merge(self, document: dict[str, Any]) -> None:
        """Adds what another process has saved."""
        with self._lock:
            self.counts.update(document["counts"])
            for operation, buckets in document["times"].items():
                self.times.setdefault(operation, Counter()).update({int(k): v for k, v in buckets.items()})
            self.violations += document["violations"]
            for what, value in document["worst"].items():
                self.worst[what] = max(value, self.worst.get(what, value))

    def percentile(self, operation: str, share: float) -> float:
        """The time in seconds that a `share` of the calls did not exceed, to about a tenth."""
        buckets = self.times[operation]
        wanted = share * buckets.total()
        seen = 0
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= wanted:
                return float(2 ** (bucket / _BUCKETS_PER_DOUBLING))
        return 0.0

    def _document(self) -> dict[str, Any]:
        return {
            "counts": self.counts,
            "times": self.times,
            "violations": self.violations,
            "worst": self.worst,
        }
