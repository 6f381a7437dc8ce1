"""Checks that a tag, the version and the changelog agree: `python tests/packaging/check_release.py v0.3.0`.

The workflow of releases runs it before anything is built. It needs the standard library alone.
"""

from __future__ import annotations

import re
import sys
from datetime import date
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def version_of(text: str) -> str:
    """The version in the text of `_version.py`. Empty where the text has no version."""
    found = re.search(r'^__version__[^=\n]*= "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else ""


def problems(tag: str, version_file: str, changelog: str) -> list[str]:
    """What does not agree, a sentence each. Empty where the tag may be released."""
    version = version_of(version_file)
    found: list[str] = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag!r} and the version {version!r}; expected the tag 'v{version}'")
    sections = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    released = next((section for section in sections if section.lower() != "unreleased"), "")
    name, _, day = released.partition(" - ")
    if name.strip("[]") != version:
        found.append(f"the newest release in CHANGELOG.md is {released!r}; expected '{version} - <date>'")
    elif not _is_date(day):
        found.append(f"CHANGELOG.md gives the date {day!r}; expected one such as 2026-03-31")
    if not sections or sections[0].lower() != "unreleased":
        found.append("CHANGELOG.md does not begin with the section 'Unreleased'")
    elif re.search(r"^## Unreleased\s*\n\s*(?!## )\S", changelog, re.MULTILINE | re.IGNORECASE):
        found.append("the section 'Unreleased' of CHANGELOG.md is not empty; its lines belong to this version")
    return found


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def main() -> None:
    """Ends with status 1 and the reasons on stderr where the tag may not be released, and with 2 for wrong usage."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python tests/packaging/check_release.py TAG\n")
        sys.exit(2)
    found = problems(
        sys.argv[1],
        (ROOT / "lmcache_connect" / "_version.py").read_text(encoding="utf-8"),
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    )
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
