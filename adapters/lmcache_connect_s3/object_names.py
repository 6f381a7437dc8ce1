"""`ObjectNames`: keys as names of objects, and back."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from lmcache_connect.errors import InvalidKeyError

MAX_NAME_BYTES: Final = 1024
"""What S3 allows."""

SEGMENT: Final = 200
"""Characters of a name between slashes: a store that keeps objects as files has a limit of 255 or so."""

_PLAIN: Final = "@=+,-_.~"
"""What stands for itself besides letters and digits; everything else is percent-encoded."""


class ObjectNames:
    """Names under one prefix: `prefix/` and the key, percent-encoded, so that any key is a name that any store takes.

    A long one is cut into segments, each but the last ending in a `%`, which no encoded text ends in. So every name
    stands for one key, a prefix of a key gives a prefix of its name, and no name is another one's folder.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}/" if prefix else ""

    def name(self, key: str) -> str:
        """The object's name.

        Raises:
            InvalidKeyError: it would be longer than S3 allows.
        """
        name = self._prefix + _encoded(key)
        if len(name.encode()) > MAX_NAME_BYTES:
            raise InvalidKeyError(key, f"its object would have a name of more than {MAX_NAME_BYTES} bytes")
        return name

    def listed_prefix(self, key_prefix: str) -> str:
        """What the names of all keys with this prefix begin with."""
        return self._prefix + _encoded(key_prefix)

    def key(self, name: str) -> str | None:
        """The key that a name stands for; None where it is no name of ours."""
        if not name.startswith(self._prefix):
            return None
        encoded = name[len(self._prefix) :]
        try:
            key = unquote(encoded.replace("%/", ""), errors="strict")
        except UnicodeDecodeError:
            return None
        return key if key and _encoded(key) == encoded else None


def _encoded(key: str) -> str:
    text = quote(key, safe=_PLAIN)
    if len(text) > SEGMENT:
        text = "%/".join(text[start : start + SEGMENT] for start in range(0, len(text), SEGMENT))
    if "." not in text:
        return text
    # A segment that begins with a dot may be a hidden file, or "." or "..", which are no names at all.
    return "/".join(f"%2E{part[1:]}" if part.startswith(".") else part for part in text.split("/"))
