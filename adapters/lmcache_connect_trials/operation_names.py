"""Lists of operations in options: names separated by commas."""

from __future__ import annotations


def checked_names(text: str | None, known: tuple[str, ...]) -> str | None:
    """Checks that `text` is a list of known names, separated by commas, and returns it.

    Raises:
        ValueError: a name is unknown.
    """
    for name in split_names(text):
        if name not in known:
            raise ValueError(f"{name!r} is unknown; expected some of {', '.join(known)}")
    return text


def split_names(text: str | None) -> tuple[str, ...]:
    """The names in `text`, without the commas and blanks between them."""
    return tuple(filter(None, map(str.strip, (text or "").split(","))))
