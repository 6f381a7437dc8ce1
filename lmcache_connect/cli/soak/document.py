"""The JSON document of a soak."""

from __future__ import annotations

from typing import Any

from .report import SoakReport


def soak_document(report: SoakReport) -> dict[str, Any]:
    """A run. Times are seconds, sizes bytes, rates bytes or calls per second."""
    return {
        "ok": report.ok,
        "complaints": list(report.complaints),
        "store": report.store,
        "server": report.server,
        "seed": report.seed,
        "tasks": report.tasks,
        "chaos": report.chaos,
        "seconds": round(report.seconds, 1),
        "stopped_early": report.stopped,
        "values_verified": report.values,
        "bytes_verified": report.nbytes,
        "wrong": {"count": report.wrong_count, "first": list(report.wrong)},
        "late": {"count": report.late_count, "worst_seconds": round(report.latest, 3), "first": list(report.late)},
        "unexplained": {"count": report.unexplained_count, "first": list(report.unexplained)},
        "missing": report.missing,
        "older_after_failover": report.older,
        "cancelled": report.cancelled,
        "errors": dict(report.errors),
        "operations": {
            row.operation: {
                "calls": row.calls,
                "failed": row.failed,
                "p50_ms": row.p50 * 1e3,
                "p99_ms": row.p99 * 1e3,
                "max_ms": row.longest * 1e3,
            }
            for row in report.operations
        },
        "throughput": {
            "calm_bytes_per_second": round(report.calm_bytes_per_second),
            "calls_per_second": round(report.calls_per_second, 1),
        },
        "most_bytes_in_store": report.most_bytes,
        "keys_left": report.keys_left,
        "recovery": {
            "faults": len(report.recoveries),
            "median_seconds": _rounded(report.median_recovery),
            "worst_seconds": _rounded(report.worst_recovery),
            "slow": report.slow_recoveries,
        },
        "faults": [
            {"kind": fault.kind, "begun": round(fault.begun, 2), "ended": round(fault.ended, 2), "fired": fault.fired}
            for fault in report.faults
        ],
        "recoveries": [
            {
                "kind": one.fault.kind,
                "begun": round(one.fault.begun, 2),
                "before": round(one.before),
                "during": round(one.during),
                "seconds": _rounded(one.seconds),
            }
            for one in report.recoveries
        ],
        "process": {
            trend.what: {
                "before": trend.before,
                "median": trend.median,
                "most": trend.most,
                "growth": round(trend.growth, 1),
                "after": trend.after,
                "flat": trend.is_flat,
            }
            for trend in report.trends
        },
        "arena_bytes_left": report.arena_left,
        "lag": {"loop_seconds": round(report.loop_lag, 3), "threads_seconds": round(report.thread_lag, 3)},
        "timeline": [
            {
                "at": round(second.at, 1),
                "bytes_per_second": round(second.bytes_per_second),
                "calls_per_second": round(second.calls_per_second, 1),
                "rss": second.rss,
                "descriptors": second.descriptors,
                "threads": second.threads,
                "tasks": second.tasks,
            }
            for second in report.timeline
        ],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
