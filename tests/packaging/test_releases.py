"""A tag is released only where the version and the changelog say the same."""

from __future__ import annotations

import pytest

from .check_release import ROOT, problems, version_of

VERSION = '"""The version."""\n\n__version__ = "1.4.0"\n'
CHANGELOG = (
    "# Changelog\n\n## Unreleased\n\n## 1.4.0 - 2026-12-01\n\n### Added\n\n- A store.\n\n## 1.3.0 - 2026-11-01\n"
)


def test_a_tag_that_agrees_with_the_version_and_the_changelog_is_released() -> None:
    assert problems("v1.4.0", VERSION, CHANGELOG) == []


@pytest.mark.parametrize(
    ("tag", "changelog", "reason"),
    [
        ("v1.4.1", CHANGELOG, "expected the tag 'v1.4.0'"),
        ("1.4.0", CHANGELOG, "expected the tag 'v1.4.0'"),
        ("v1.4.0", CHANGELOG.replace("1.4.0", "1.2.0"), "newest release in CHANGELOG.md is '1.2.0"),
        ("v1.4.0", CHANGELOG.replace("2026-12-01", "soon"), "gives the date 'soon'"),
        ("v1.4.0", CHANGELOG.replace("## Unreleased\n", ""), "does not begin with the section 'Unreleased'"),
        ("v1.4.0", CHANGELOG.replace("## Unreleased\n", "## Unreleased\n\n### Added\n\n- More.\n"), "is not empty"),
    ],
)
def test_what_does_not_agree_is_said_and_nothing_is_released(tag: str, changelog: str, reason: str) -> None:
    (problem,) = problems(tag, VERSION, changelog)
    assert reason in problem


def test_the_version_is_read_from_the_file_that_states_it() -> None:
    from lmcache_connect import __version__

    assert version_of((ROOT / "lmcache_connect" / "_version.py").read_text(encoding="utf-8")) == __version__
