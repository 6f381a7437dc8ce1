"""The JSON document of a ping."""

from __future__ import annotations

from typing import Any

from .ping import PingReport


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
