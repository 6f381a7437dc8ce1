"""The packages that this one needs, and those of its extras: installed, missing, or of a release that is too old."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Final

from ..frame.exits import PROGRAM

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;(.*))?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_BOUND: Final = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([0-9][\w.]*)")
_GATHERING: Final = frozenset({"all", "demo", "testing", "containers"})
"""Extras that are for tests, or that gather others."""


@dataclass(frozen=True)
class PackageReport:
    """One package. `extra` is the extra that has it, "" for those that are always needed.

    `version` is None where it is not installed. `wanted` are the releases that will do, such as `>=2.7`.
    """

    package: str
    extra: str
    version: str | None
    wanted: str

    @property
    def fits(self) -> bool:
        """Whether the installed release is one that will do."""
        return self.version is not None and _fits(self.version, self.wanted)


def list_packages() -> list[PackageReport]:
    """The packages that the metadata of this one name, in its order. Empty where it is not installed as a package."""
    try:
        requirements = importlib.metadata.requires(PROGRAM) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found: list[PackageReport] = []
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        if match is None:
            continue
        package, wanted, marker = match[1], match[2].strip(), match[3] or ""
        extra = _EXTRA.search(marker)
        name = extra[1] if extra is not None else ""
        if package == PROGRAM or name in _GATHERING:
            continue
        found.append(PackageReport(package, name, _version(package), wanted))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(version: str, wanted: str) -> bool:
    have = _numbers(version)
    for sign, bound in _BOUND.findall(wanted):
        limit = _numbers(bound)
        width = max(len(have), len(limit))
        ours, theirs = (numbers + (0,) * (width - len(numbers)) for numbers in (have, limit))
        good = {
            ">=": ours >= theirs,
            "<=": ours <= theirs,
            "<": ours < theirs,
            ">": ours > theirs,
            "==": ours == theirs,
            "!=": ours != theirs,
            "~=": ours >= theirs and ours[: len(limit) - 1] == theirs[: len(limit) - 1],
        }
        if not good[sign]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release is not None else ()
