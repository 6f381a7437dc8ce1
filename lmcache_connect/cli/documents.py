"""JSON documents for `--json`: one for each report. Sizes are bytes, times are seconds unless a name says `_ms`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .demo_report import DemoReport, KindReport
from .engines import EnginesReport
from .ping import PingReport
from .plugins import PluginReport
from .schemes import SchemeReport
from .serving import Serving


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


def engines_document(report: EnginesReport) -> dict[str, Any]:
    """The engines, their versions, and the texts to paste."""
    return {"ok": True, **asdict(report)}


def serving_document(serving: Serving) -> dict[str, Any]:
    """The addresses and the stores of a server that listens."""
    return {"ok": True, **asdict(serving)}


def schemes_document(reports: Sequence[SchemeReport]) -> dict[str, Any]:
    """All schemes. `loads` is false where `error` is not null."""
    return {"schemes": [asdict(report) | {"loads": report.loads} for report in reports]}


def plugins_document(reports: Sequence[PluginReport]) -> dict[str, Any]:
    """All plug-ins. `loads` is false where `error` is not null."""
    return {"plugins": [asdict(report) | {"loads": report.loads} for report in reports]}


def error_document(error: Exception) -> dict[str, Any]:
    """A command that failed."""
    return {"ok": False, "error": {"type": type(error).__name__, "message": str(error)}}


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
