"""The JSON documents of `doctor` and `config show`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .doctor import DoctorReport
from .in_effect import SettingReport, SettingsReport


def doctor_document(report: DoctorReport) -> dict[str, Any]:
    """All that was looked at. `settings` is null where they cannot be read."""
    return {
        "ok": report.ok,
        "version": report.version,
        "problems": [asdict(problem) for problem in report.problems],
        "machine": [asdict(fact) for fact in report.machine],
        "packages": [asdict(package) | {"fits": package.fits} for package in report.packages],
        "engines": [
            {"engine": engine.engine, "package": engine.package, "version": engine.version} for engine in report.engines
        ],
        "file": None if report.settings is None else report.settings.file,
        "settings": None if report.settings is None else _settings(report.settings),
        "store": report.store,
        "plugins": [asdict(plugin) | {"loads": plugin.loads} for plugin in report.plugins],
    }


def settings_document(report: SettingsReport) -> dict[str, Any]:
    """The settings by name: value, kind of source, and place."""
    return {"ok": True, "file": report.file, "settings": _settings(report)}


def _settings(report: SettingsReport) -> dict[str, Any]:
    return {each.name: _setting(each) for each in report.settings}


def _setting(setting: SettingReport) -> dict[str, Any]:
    return {"value": setting.value, "from": setting.origin.kind, "place": setting.origin.place}
