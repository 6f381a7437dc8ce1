"""The JSON document of a benchmark."""

from __future__ import annotations

from typing import Any

from .report import BenchReport, Figures, Row


def bench_document(report: BenchReport) -> dict[str, Any]:
    """A benchmark. Times are seconds, sizes bytes, rates bytes or keys per second, `cpu_seconds_per_gb` by 10^9."""
    return {
        "ok": report.ok,
        "store": report.store,
        "against": report.against,
        "seconds": report.seconds,
        "bytes_moved": report.moved,
        "chunks_verified": report.verified,
        "problems": report.problems,
        "rows": [_row_document(row) for row in report.rows],
        "left_out": [{"bytes": nbytes, "calls": how, "option": why} for nbytes, how, why in report.left_out],
    }


def _row_document(row: Row) -> dict[str, Any]:
    document: dict[str, Any] = {
        "operation": row.operation.value,
        "bytes": row.nbytes,
        "concurrency": row.mode.concurrency,
        "batch": row.mode.batch,
        **_figures_document(row.figures, row.nbytes),
    }
    if row.other is not None:
        document |= {"against": _figures_document(row.other, row.nbytes), "ratio": row.ratio}
    return document


def _figures_document(figures: Figures, nbytes: int) -> dict[str, Any]:
    return {
        "calls": figures.calls,
        "keys": figures.keys,
        "bytes_per_second": figures.rate if nbytes else None,
        "keys_per_second": figures.key_rate,
        "round_bytes_per_second": list(figures.rates) if nbytes else None,
        "p50_seconds": figures.p50,
        "p95_seconds": figures.p95,
        "p99_seconds": figures.p99,
        "cpu_seconds_per_gb": figures.cpu_per_gb,
    }
