"""Reads a bucket's versioning and lifecycle: what becomes of chunks that are replaced, removed or forgotten."""

from __future__ import annotations

import asyncio
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import Finding, Verdict

from ..bucket import Bucket
from ..documents import DocumentError, parse

_LIMIT: Final = 256 << 10
_NONE: Final = frozenset({200, 404})


async def read_rules(bucket: Bucket, timeout: float) -> list[Finding]:
    """Returns what the bucket's rules mean for chunks. What may not be read is said so."""
    findings: list[Finding] = []
    for subject, look in (("versioning", _versioning), ("lifecycle", _lifecycle)):
        try:
            async with asyncio.timeout(timeout):
                findings.append(await look(bucket))
        except (StoreError, DocumentError, TimeoutError) as error:
            why = error.message if isinstance(error, StoreError) else str(error) or "no answer"
            findings.append(Finding(subject, Verdict.UNKNOWN, why))
    return findings


async def _versioning(bucket: Bucket) -> Finding:
    _, body = await bucket.ask("GET", "", "versioning", query={"versioning": ""}, limit=_LIMIT)
    state = parse(body).find("Status")
    if state == "Enabled":
        found = "on: chunks that are replaced or removed stay as old versions, and cost"
        advice = "add a lifecycle rule with NoncurrentVersionExpiration, or use a bucket without versions"
        return Finding("versioning", Verdict.HURTS, found, advice)
    return Finding("versioning", Verdict.GOOD, "off" if not state else state[:20].lower())


async def _lifecycle(bucket: Bucket) -> Finding:
    head, body = await bucket.ask("GET", "", "lifecycle", query={"lifecycle": ""}, limit=_LIMIT, allowed=_NONE)
    rules = list(parse(body).all("Rule")) if head.status == 200 else []
    active = [rule for rule in rules if rule.find("Status") != "Disabled"]
    kinds = {child.name for rule in active for child in rule.children}
    missing = [
        text
        for kind, text in (
            ("Expiration", "no rule removes old chunks"),
            ("AbortIncompleteMultipartUpload", "no rule removes parts of uploads that broke off"),
        )
        if kind not in kinds
    ]
    if not missing:
        return Finding("lifecycle", Verdict.GOOD, f"{len(active)} rules: old chunks and parts are removed")
    return Finding("lifecycle", Verdict.NOTE, "; ".join(missing), "add lifecycle rules: docs/s3.md has them")
