"""The page on security names tests that exist, and the README leads to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED: Final = sorted(set(re.findall(r"`(test_\w+)`", PAGE)))
TESTS: Final = frozenset(
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
)


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_page_on_security_names_exists(name: str) -> None:
    assert name in TESTS


def test_each_row_of_what_is_defended_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 3]
    claims = [row for row in rows if not re.match(r"\| (?:defended|---|version|the newest|older) ", row)]
    assert len(claims) > 15
    assert [row for row in claims if "`test_" not in row.split("|")[2]] == []


def test_the_readme_leads_to_the_page_on_security() -> None:
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
