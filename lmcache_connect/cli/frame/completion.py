"""What the shell completes: the schemes of URLs."""

from __future__ import annotations

from collections.abc import Iterator

from ...manager import default_registry


def complete_scheme(incomplete: str) -> Iterator[str]:
    """The schemes that begin with what was typed."""
    yield from (scheme for scheme in _schemes() if scheme.startswith(incomplete.lower()))


def complete_url(incomplete: str) -> Iterator[str]:
    """The beginnings of URLs that begin with what was typed. Hosts are not completed."""
    yield from (f"{scheme}://" for scheme in _schemes() if f"{scheme}://".startswith(incomplete.lower()))


def _schemes() -> list[str]:
    return [scheme for scheme in default_registry.schemes() if "<" not in scheme]
