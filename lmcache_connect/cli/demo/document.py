"""The JSON document of a demo. Sizes are bytes, times seconds, rates bytes per second."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .report import DemoReport, KindReport


def demo_document(report: DemoReport) -> dict[str, Any]:
    """A run of the demo. Rates are bytes per second."""
    return {
        "ok": report.ok,
        "store": report.store,
        "server": report.server,
        "model_name": report.model_name,
        "seed": report.seed,
        "rounds": report.rounds,
        "kinds": [_kind_document(kind) for kind in report.kinds],
        "bytes_put": report.bytes_put,
        "bytes_got": report.bytes_got,
        "seconds": report.seconds,
        "longest_call": asdict(report.longest),
        "arena": {
            "capacity": report.arena_capacity,
            "balance": report.arena_balance,
            "objects": report.arena_objects,
        },
        "keys": {
            "written": report.keys_written,
            "removed": report.keys_removed,
        },
        "retries": report.retries,
        "corrupt": report.corrupt,
        "problems": report.problems,
    }


def _kind_document(report: KindReport) -> dict[str, Any]:
    chunk = report.kind.chunk
    return {
        "name": report.kind.name,
        "count": report.kind.count,
        "chunk_bytes": chunk.nbytes,
        "shapes": [list(shape) for shape in chunk.shapes],
        "dtypes": [dtype.name for dtype in chunk.dtypes],
        "format": chunk.fmt.name,
        "put_bytes_per_second": report.put_rate,
        "get_bytes_per_second": report.get_rate,
        "get_p50_seconds": report.get_seconds,
        "hits": report.hits,
        "expected_hits": report.expected_hits,
        "misses": report.misses,
        "expected_misses": report.expected_misses,
        "verified": report.verified,
        "ok": report.ok,
    }
