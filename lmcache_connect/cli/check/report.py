"""`CheckReport`: what a check has found."""

from __future__ import annotations

from dataclasses import dataclass

from ...contract import Finding, Verdict

_BAD = frozenset({Verdict.HURTS, Verdict.FAILS, Verdict.UNUSABLE})


@dataclass(frozen=True)
class CheckReport:
    """All findings, in the order in which they were made. `store` is a redacted URL."""

    store: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def is_usable(self) -> bool:
        """Whether the store could be used at all."""
        return not any(finding.verdict is Verdict.UNUSABLE for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Whether nothing fails or hurts."""
        return not any(finding.verdict in _BAD for finding in self.findings)

    def count(self, *verdicts: Verdict) -> int:
        """How many findings have one of these verdicts."""
        return sum(finding.verdict in verdicts for finding in self.findings)
