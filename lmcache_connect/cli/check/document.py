"""The JSON document of a check."""

from __future__ import annotations

from typing import Any

from ...contract import Finding, Verdict
from .report import CheckReport


def check_document(report: CheckReport) -> dict[str, Any]:
    """A check. `ok` is true where nothing fails or hurts; `error` is there where the store cannot be used."""
    document: dict[str, Any] = {
        "ok": report.ok,
        "store": report.store,
        "seconds": report.seconds,
        "findings": [finding_document(finding) for finding in report.findings],
    }
    if not report.is_usable:
        last = next(finding for finding in report.findings if finding.verdict is Verdict.UNUSABLE)
        document["error"] = {"type": "StoreUnusable", "message": f"{last.subject}: {last.found}"}
    return document


def finding_document(finding: Finding) -> dict[str, Any]:
    """One finding. `verdict` is `good`, `note`, `unknown`, `hurts`, `fails` or `unusable`."""
    return {
        "subject": finding.subject,
        "verdict": finding.verdict.value,
        "found": finding.found,
        "advice": finding.advice,
        "servers": list(finding.servers),
    }
