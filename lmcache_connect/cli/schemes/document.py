"""The JSON documents of `schemes` and `plugins`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .plugins import PluginReport
from .scheme_options import OptionsReport
from .schemes import SchemeReport


def schemes_document(reports: Sequence[SchemeReport]) -> dict[str, Any]:
    """All schemes. `loads` is false where `error` is not null."""
    return {"schemes": [asdict(report) | {"loads": report.loads} for report in reports]}


def plugins_document(reports: Sequence[PluginReport]) -> dict[str, Any]:
    """All plug-ins. `loads` is false where `error` is not null."""
    return {"plugins": [asdict(report) | {"loads": report.loads} for report in reports]}


def options_document(reports: Sequence[OptionsReport]) -> dict[str, Any]:
    """The options of a scheme, then those of the schemes inside it. `options` is null where any is taken."""
    return {"ok": True, "schemes": [asdict(report) for report in reports]}
