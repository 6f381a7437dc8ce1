"""JSON documents of copies. Sizes are bytes, times are seconds."""

from __future__ import annotations

from typing import Any

from .copying import CopyReport
from .files import FileReport
from .tally import Outcome


def copy_document(report: CopyReport) -> dict[str, Any]:
    """A copy. `complete` is false where it ended before every key was dealt with; a further run goes on then."""
    tally = report.tally
    document: dict[str, Any] = {
        "ok": report.ok,
        "source": report.source,
        "destination": report.destination,
        "dry_run": report.dry_run,
        "complete": report.is_complete,
        "interrupted": report.is_stopped,
        "seconds": report.seconds,
        "bytes_per_second": tally.nbytes[Outcome.COPIED] / report.seconds if report.seconds else None,
    }
    for outcome in Outcome:
        document[outcome.value] = {"keys": tally.keys[outcome], "bytes": tally.nbytes[outcome]}
        if tally.examples[outcome]:
            document[outcome.value]["examples"] = [
                {"key": example.key, "reason": example.why} for example in tally.examples[outcome]
            ]
    document |= {
        "verified": tally.verified,
        "replaced": tally.replaced,
        "uncompared": tally.uncompared,
        "skipped_by_state": tally.by_state,
        "ttls_set": tally.ttls_set,
        "ttls_lost": tally.ttls_lost,
        "keeps_ttls": report.keeps_ttls,
        "left_out": report.left_out,
    }
    if report.error is not None:
        document["error"] = {"type": type(report.error).__name__, "message": str(report.error)}
    return document


def file_document(report: FileReport) -> dict[str, Any]:
    """A chunk that went into a file, or came from one."""
    return {
        "ok": True,
        "store": report.store,
        "key": report.key,
        "file": report.file,
        "bytes": report.nbytes,
        "chunk": {
            "format": report.metadata.fmt.name,
            "shapes": [list(shape) for shape in report.metadata.shapes],
            "dtypes": [dtype.name for dtype in report.metadata.dtypes],
        },
        "xxh3": f"{report.xxh3:016x}",
    }
