"""JSON documents about what a store holds. Sizes are bytes, times are seconds."""

from __future__ import annotations

import math
from typing import Any

from ...metadata import ChunkMetadata
from .clear import ClearReport, Survey
from .du import Group, UsageReport
from .inspection import InspectReport
from .key_parts import KeyParts
from .ls import ListReport, Row
from .rm import RemovalReport


def row_document(row: Row, *, facts: bool) -> dict[str, Any]:
    """A key of a listing. `expires` is null where the store does not tell, and `ttl` where it never forgets it."""
    if not facts:
        return {"key": row.key}
    told = row.facts
    if told is None:
        return {"key": row.key, "gone": True}
    return {"key": row.key, "bytes": told.stored_bytes, **_ttl(told.ttl), "age": told.age, "idle": told.idle}


def list_document(report: ListReport) -> dict[str, Any]:
    """The end of a listing, whose keys stand before it."""
    return {
        "store": report.store,
        "count": report.count,
        "left_out": report.left_out,
        "whole": report.is_whole and report.ok,
    }


def inspect_document(report: InspectReport) -> dict[str, Any]:
    """A key. `ok` is false where it is missing, or something is wrong with it: `problems`."""
    facts = report.facts
    document: dict[str, Any] = {
        "ok": report.ok,
        "store": report.store,
        "key": report.key,
        "found": report.is_found,
        "problems": list(report.problems),
        "key_parts": parts_document(report.parts),
    }
    if facts is None:
        return document
    return document | {
        "form": facts.form,
        "server": facts.server or None,
        "payload_bytes": report.metadata.nbytes if report.metadata is not None else facts.nbytes,
        "stored_bytes": facts.stored_bytes,
        **_ttl(facts.ttl),
        "age": facts.age,
        "idle": facts.idle,
        "pieces": facts.pieces,
        "missing_pieces": list(facts.missing),
        "chunk": None if report.metadata is None else metadata_document(report.metadata),
        "checksums": [{"start": each.start, "end": each.end, "xxh3": f"{each.xxh3:016x}"} for each in facts.sums],
        "payload": None if report.reading is None else report.reading.value,
        "payload_detail": report.why or None,
        "payload_xxh3": None if report.xxh3 is None else f"{report.xxh3:016x}",
    }


def metadata_document(metadata: ChunkMetadata) -> dict[str, Any]:
    """What a chunk is."""
    return {
        "format": metadata.fmt.name,
        "shapes": [list(shape) for shape in metadata.shapes],
        "dtypes": [dtype.name for dtype in metadata.dtypes],
    }


def parts_document(parts: KeyParts) -> dict[str, Any]:
    """What a key says."""
    if parts.kind == "other":
        return {"kind": "other"}
    found = {
        "kind": parts.kind,
        "model": parts.model,
        "tenant": parts.tenant or None,
        "hash": parts.raw,
    }
    if parts.kind == "engine":
        return found | {"digest": parts.digest}
    return found | {"dtype": parts.dtype, "worker": parts.worker, "layer": parts.layer, "tags": dict(parts.tags)}


def removal_document(report: RemovalReport, *, ok: bool) -> dict[str, Any]:
    """What became of keys."""
    return {
        "ok": ok,
        "store": report.store,
        "removed": list(report.removed),
        "missing": list(report.missing),
        "invalid": list(report.invalid),
        "failed": list(report.failed),
    }


def survey_document(survey: Survey) -> dict[str, Any]:
    """What stands under a prefix. `unknown` chunks have a size that the store does not tell."""
    return {
        "store": survey.store,
        "prefix": survey.prefix,
        "chunks": survey.chunks,
        "bytes": survey.nbytes,
        "unknown": survey.unknown,
        "left_out": survey.left_out,
    }


def clear_document(report: ClearReport) -> dict[str, Any]:
    """A clearing, or what it would be: `removed` is null then."""
    cleared = report.cleared
    return {
        "ok": report.ok,
        **survey_document(report.survey),
        "removed": None if cleared is None else cleared.removed,
        "outdated": None if cleared is None else cleared.outdated,
        "failed": None if cleared is None else cleared.failed,
        "error_message": None if cleared is None else cleared.error,
    }


def usage_document(report: UsageReport) -> dict[str, Any]:
    """What takes how much. `share` is of all bytes."""
    return {
        "ok": True,
        "store": report.store,
        "by": report.by,
        "groups": [_group(group, report.total) for group in report.groups],
        "total": _group(report.total, report.total),
        "left_out": report.left_out,
    }


def _group(group: Group, total: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "chunks": group.chunks,
        "bytes": group.nbytes,
        "share": group.nbytes / total.nbytes if total.nbytes else None,
        "unknown": group.unknown,
        "expiring": group.expiring,
        "largest": group.largest or None,
        "largest_bytes": group.largest_bytes,
    }


def _ttl(ttl: float | None) -> dict[str, Any]:
    if ttl is None:
        return {"expires": None, "ttl": None}
    return {"expires": True, "ttl": ttl} if math.isfinite(ttl) else {"expires": False, "ttl": None}
