"""docs/architecture.md is true: its picture, its lines and its walks agree with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from ..test_imports_point_down import CORE, arrows, belongs_to, top, unit

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
VOCABULARY: Final = "vocabulary"
"""Stands for the modules that are files at the top of the toolkit."""

STATION: Final = re.compile(r"^(\d+)\. `([^`]+)` `([^`]+)`", re.MULTILINE)
WALKS: Final = PAGE.split("\n## Walks\n")[-1].split("\n### ")[1:]
MAX_STATIONS: Final = 10
PAGES: Final = sorted((ROOT / "docs").glob("*.md"))
FOLDERS: Final = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build", "dist"}


def package(module: str) -> str:
    """The node that stands for a module in the picture."""
    if not belongs_to(module, CORE):
        return top(module)
    name = unit(module)
    return VOCABULARY if name and not (ROOT / CORE / name).is_dir() else name or CORE


def package_arrows() -> dict[str, set[str]]:
    """For each package, the packages that it imports."""
    found: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        here = package(module)
        found.setdefault(here, set()).update(there for target in targets if (there := package(target)) != here)
    return found


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """All packages that can be reached from one."""
    seen: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += graph[name]
    return seen


def reduced(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from others."""
    return {
        (here, there)
        for here, targets in graph.items()
        for there in targets
        if not any(there in reached(other, graph) for other in targets if other != there)
    }


def definitions(path: str) -> set[str]:
    """The classes, functions and methods of a file, methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = (item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{item.name}" for item in members}
    return found


def test_the_picture_has_the_arrows_of_the_code() -> None:
    expected = {f"{here} --> {there}" for here, there in reduced(package_arrows())}
    drawn = set(re.findall(r"^ +(\w+ --> \w+)$", PAGE, flags=re.MULTILINE))
    assert drawn == expected, "draw these:\n" + "\n".join(f"    {arrow}" for arrow in sorted(expected))


def test_every_package_has_one_line() -> None:
    rows = re.findall(r"^\| `(?:adapters/|reference_connectors/)?(\w+)/?` \|", PAGE, flags=re.MULTILINE)
    assert sorted(rows) == sorted(package_arrows())


def test_there_are_four_walks() -> None:
    assert len(WALKS) == 4


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.splitlines()[0])
def test_a_walk_has_ten_stations_at_most(walk: str) -> None:
    numbers = [int(number) for number, _, _ in STATION.findall(walk)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 3 <= len(numbers) <= MAX_STATIONS
    assert len(numbers) == len(re.findall(r"^\d+\. ", walk, flags=re.MULTILINE)), (
        "a station names a file and a function"
    )


@pytest.mark.parametrize(("path", "name"), sorted({found[1:] for found in STATION.findall(PAGE)}))
def test_a_station_exists(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert name in definitions(path)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in PAGES)])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./-]+/[\w./-]+)`", text) if "toy" not in name}
    missing = {name for name in named if not (ROOT / name).exists() and name.partition("/")[0] in FOLDERS}
    assert not missing
