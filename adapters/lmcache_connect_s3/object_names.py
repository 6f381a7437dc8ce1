"""`ObjectNames`: the names of objects for keys, and the keys for names."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from lmcache_connect.errors import InvalidKeyError

MAX_NAME_BYTES: Final = 1024
"""The longest name that S3 allows."""

SEGMENT: Final = 200
"""The most characters between slashes. Stores that keep objects as files have a limit of about 255."""

_PLAIN: Final = "@=+,-_.~"
"""These characters, letters and digits are not percent-encoded."""


_INTERNAL: Final = ".lmcache-connect/"
"""No name of a key has a segment that begins with a dot."""


class ObjectNames:
    """Names under one prefix: `prefix/` and the key, percent-encoded, so that any store takes the name of any key.

    A long key is cut into segments. Each but the last ends in a `%`, which encoded text never does. So every name
    stands for one key, a prefix of a key gives a prefix of its name, and no name is the folder of another.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}/" if prefix else ""

    def name(self, key: str) -> str:
        """Returns the name of the key's object.

        Raises:
            InvalidKeyError: the name would be longer than S3 allows.
        """
        name = self._prefix + _encoded(key)
        if len(name.encode()) > MAX_NAME_BYTES:
            raise InvalidKeyError(key, f"its object would have a name of more than {MAX_NAME_BYTES} bytes")
        return name

    def listed_prefix(self, key_prefix: str) -> str:
        """Returns what the names of all keys with this prefix begin with."""
        return self._prefix + _encoded(key_prefix)

    def internal(self, what: str) -> str:
        """Returns a name for an object of the connector's own. No key has it, and no listing tells of it."""
        return f"{self._prefix}{_INTERNAL}{what}"

    def is_internal(self, name: str) -> bool:
        """Whether this class has made the name for the connector itself, here or in another process."""
        return name.startswith(f"{self._prefix}{_INTERNAL}")

    def key(self, name: str) -> str | None:
        """Returns the key that a name stands for. None: this class does not make such a name."""
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
    # A segment that begins with a dot may be a hidden file, or "." or "..", which no file has.
    return "/".join(f"%2E{part[1:]}" if part.startswith(".") else part for part in text.split("/"))
