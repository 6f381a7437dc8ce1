"""`label`: a name of people's as a part of a key that people can read, and that no other name gives."""

from __future__ import annotations

import hashlib
import re
from typing import Final

MAX_LABEL: Final = 64
"""The most characters of a label."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")
_DIGEST_BYTES: Final = 16
_KEPT: Final = MAX_LABEL - len("~~") - 2 * _DIGEST_BYTES

NO_LABEL: Final = "~-"
"""The label of nobody: of keys that belong to no tenant."""

_SALT: Final = "~s"


def label(name: str) -> str:
    """The label of a name: letters, digits, `.`, `_` and `-` as they are, every other byte of UTF-8 as `~` and two hex.

    One that would be longer than `MAX_LABEL` characters ends in `~~` and a digest of the whole name. No two names have
    one label. What follows a `~` tells which it is: two hex digits, another `~`, or the sign of `NO_LABEL` or a salt.
    """
    text = _UNSAFE.sub(_escaped, name)
    if len(text) <= MAX_LABEL:
        return text
    return f"{text[:_KEPT]}~~{digest(name.encode('utf-8', 'surrogatepass'), 'label')}"


def label_of_salt(salt: str | bytes) -> str:
    """The label of a tenant of whom only an engine's salt is known: a digest, which does not tell the salt."""
    kind, data = ("text", salt.encode("utf-8", "surrogatepass")) if isinstance(salt, str) else ("bytes", salt)
    return _SALT + digest(data, f"salt {kind}")


def digest(data: bytes, purpose: str) -> str:
    """32 hex digits for `data`: BLAKE2b, the same in every process. Digests for several purposes differ."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES, person=purpose.encode()).hexdigest()


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"~{byte:02x}" for byte in match.group().encode("utf-8", "surrogatepass"))
