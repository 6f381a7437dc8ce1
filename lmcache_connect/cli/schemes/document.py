"""The JSON documents of `schemes` and `plugins`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .plugins import PluginReport
from .schemes import SchemeReport


def schemes_document(reports: Sequence[SchemeReport]) -> dict[str, Any]:
    """All schemes. `loads` is false where `error` is not null."""
    return {"schemes": [asdict(report) | {"loads": report.loads} for report in reports]}


def plugins_document(reports: Sequence[PluginReport]) -> dict[str, Any]:
    """All plug-ins. `loads` is false where `error` is not null."""
    return {"plugins": [asdict(report) | {"loads": report.loads} for report in reports]}
