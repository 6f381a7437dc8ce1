"""The outcome of a storm, as a table for people and as JSON."""

from __future__ import annotations

from typing import Any

from .journal import Journal
from .storm import Storm


def document(storm: Storm, journal: Journal) -> dict[str, Any]:
    """Everything that was counted, as plain data."""
    return {
        "server": storm.server,
        "seconds": storm.seconds,
        "seed": storm.seed,
        "passed": not journal.violations,
        "violations": journal.violations,
        "counts": dict(sorted(journal.counts.items())),
        "worst": {what: round(value, 3) for what, value in sorted(journal.worst.items())},
        "seconds_by_operation": {
            operation: {
                "calls": buckets.total(),
                "p50": round(journal.percentile(operation, 0.5), 5),
                "p99": round(journal.percentile(operation, 0.99), 5),
                "max": round(journal.percentile(operation, 1.0), 5),
            }
            for operation, buckets in sorted(journal.times.items())
        },
    }


def table(storm: Storm, journal: Journal) -> str:
    """The same for people."""
    found = document(storm, journal)
    lines = [f"{'operation':<28}{'calls':>9}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}"]
    for operation, row in found["seconds_by_operation"].items():
        times = "".join(f"{row[column] * 1000:>10.1f}" for column in ("p50", "p99", "max"))
        lines.append(f"{operation:<28}{row['calls']:>9}{times}")
    lines.append("")
    lines += [f"{what:<52}{value:>12,}" for what, value in found["counts"].items()]
    lines.append("")
    lines += [f"{what:<52}{value:>12.3f}" for what, value in found["worst"].items()]
    lines.append("")
    lines += [f"VIOLATION: {text}" for text in journal.violations]
    outcome = "passed" if found["passed"] else f"FAILED with {journal.counts['violations']} violations"
    lines.append(f"{outcome}: {storm.server}, {storm.seconds:.0f} s, seed {storm.seed}")
    return "\n".join(lines)
