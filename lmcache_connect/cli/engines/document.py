"""The JSON document of `engines`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .engines import EnginesReport


def engines_document(report: EnginesReport) -> dict[str, Any]:
    """The engines, their versions, and the texts to paste."""
    return {"ok": True, **asdict(report)}
