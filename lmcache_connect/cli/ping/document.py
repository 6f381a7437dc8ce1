"""The JSON document of a ping."""

from __future__ import annotations

from typing import Any

from .ping import PingReport
from .repeated import RepeatedPingReport, percentile


def ping_document(report: PingReport) -> dict[str, Any]:
    """A ping. Times are milliseconds. `silent` has the servers that have not answered, where others have."""
    return {
        "ok": True,
        "store": report.store,
        "operation": report.operation,
        "connect_ms": report.connect_seconds * 1e3,
        "round_trip_ms": report.round_trip_seconds * 1e3,
        "silent": [
            {"server": server.server, "error": server.error, "detail": server.detail} for server in report.silent
        ],
    }


def pings_document(report: RepeatedPingReport) -> dict[str, Any]:
    """Several pings. Times are milliseconds, and null where none was answered."""
    times = report.times
    return {
        "ok": bool(report.answers) and not report.lost,
        "store": report.store,
        "operation": report.operation,
        "sent": len(report.answers),
        "lost": report.lost,
        "min_ms": times[0] * 1e3 if times else None,
        "avg_ms": sum(times) / len(times) * 1e3 if times else None,
        "max_ms": times[-1] * 1e3 if times else None,
        "p99_ms": percentile(times, 0.99) * 1e3 if times else None,
        "answers": [
            {"number": answer.number, "ms": answer.seconds * 1e3, "error": answer.error} for answer in report.answers
        ],
    }
