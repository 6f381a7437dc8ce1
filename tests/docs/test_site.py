"""The documentation as a site: `make docs` builds it. Here is what can be checked without building it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

import lmcache_connect
from lmcache_connect import testing

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = "\n".join(page.read_text() for page in sorted((ROOT / "docs/reference").glob("*.md")))


def test_every_page_is_reached_from_the_navigation_of_the_site() -> None:
    nav = set(re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", (ROOT / "mkdocs.yaml").read_text(), flags=re.MULTILINE))
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    assert pages - nav == set()
    assert {page for page in nav if not (ROOT / page).exists()} == set()


@pytest.mark.parametrize("package", [lmcache_connect, testing], ids=lambda package: package.__name__)
def test_every_public_name_has_an_entry_in_the_reference(package: ModuleType) -> None:
    described = set(re.findall(rf"^::: {re.escape(package.__name__)}\.(\w+)$", REFERENCE, flags=re.MULTILINE))
    names = {name for name in package.__all__ if not name.startswith("__")}
    errors = {name for name in names if hasattr(lmcache_connect.errors, name)} if package is lmcache_connect else set()
    assert "::: lmcache_connect.errors" in REFERENCE
    assert described - {"errors"} == names - errors


@pytest.mark.parametrize("name", ["where-it-stands"])
def test_the_light_and_the_dark_picture_differ_in_their_colours_alone(name: str) -> None:
    light, dark = (
        re.sub("#[0-9a-f]{6}", "#", (ROOT / f"docs/pictures/{name}-{theme}.svg").read_text())
        for theme in ("light", "dark")
    )
    assert light == dark
