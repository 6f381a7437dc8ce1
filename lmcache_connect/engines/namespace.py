"""`Namespace`: the keys of one engine's chunks, which say whose bytes they are.

    lc1@<model>@<tenant>@<digest>@<the engine's own key>

`docs/engines-keys.md` describes each part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import threading
from typing import Any, Final

from ..errors import InvalidConfigError, InvalidKeyError
from ..observability import event
from .identity import Identity
from .label import NO_LABEL, digest, label, label_of_salt

KEY_VERSION: Final = "lc1"
"""What every key begins with. Another way to write keys gets another one."""

SEPARATOR: Final = "@"
"""What stands between the parts of a key. No part but the last contains it."""

MAX_RAW: Final = 512
"""The most bytes that an engine's own key has in a key. A longer one is replaced by its digest."""

_SPECIAL: Final = re.compile("[\x00-\x1f\x7f~\ud800-\udfff]")
_BYTES, _HASHED = "~x", "~h"
_ESCAPED: Final = re.compile(r"((?:~[0-9a-f]{2})+)")
_ADVICE: Final = {
    "dtype": "identity.dtype (the KV cache's dtype)",
    "kv_layout": "identity.kv_layout (any name for the layout, the same on every engine that shares the store)",
    "revision": "identity.revision (the model's commit) or identity.fingerprint (a digest of its weights)",
}
_MOST_SALTS: Final = 1024
"""Namespaces of further salts that one namespace keeps."""


class Namespace:
    """The keys of one engine's chunks. Two engines share a key where every field of their identities is equal.

    Thread-safe, and immutable but for what it keeps of other salts.
    """

    def __init__(self, identity: Identity, *, strict_identity: bool = False) -> None:
        """Where a field is not known that bytes depend on, the log says once what to write.

        Args:
            identity: what the bytes depend on.
            strict_identity: refuses an identity with such a field.

        Raises:
            InvalidConfigError: `strict_identity` is on, and a field is not known; or it is not a boolean.
        """
        if not isinstance(strict_identity, bool):
            raise InvalidConfigError("strict_identity", f"{strict_identity!r}; expected true or false, without quotes")
        self.identity: Final = identity
        """What the keys are made from."""
        self.unknown: Final = identity.unknown
        """The fields that are not known: engines that differ in them alone share keys, and read each other's bytes."""
        if self.unknown and strict_identity:
            raise InvalidConfigError("strict_identity", f"the engine does not tell {self._missing()}")
        self.model_label: Final = label(identity.model.rstrip("/").rpartition("/")[2] or identity.model)
        """The model's short name, as it stands in keys: what is behind the last slash."""
        if identity.tenant is not None:
            self.tenant_label = label(identity.tenant)
            """The tenant, as it stands in keys: the operator's name, a digest of the engine's salt, or `~-`."""
        else:
            self.tenant_label = NO_LABEL if identity.salt is None else label_of_salt(identity.salt)
        self.digest: Final = digest(identity.canonical(), "identity")
        """32 hex digits that depend on every field, and on nothing else."""
        parts = (KEY_VERSION, self.model_label, self.tenant_label, self.digest)
        self.prefix: Final = SEPARATOR.join(parts) + SEPARATOR
        """What every key of this namespace begins with, and no other."""
        self._salted: dict[str | bytes, Namespace] = {}
        if self.unknown:
            _tell_unknown(self)

    @property
    def model_prefix(self) -> str:
        """What the keys of all models with this short name begin with, whatever the tenant: to list or purge them."""
        return f"{KEY_VERSION}{SEPARATOR}{self.model_label}{SEPARATOR}"

    @property
    def tenant_prefix(self) -> str:
        """What the keys of this model and tenant begin with, whatever the other fields are: to list or purge them."""
        return f"{self.model_prefix}{self.tenant_label}{SEPARATOR}"

    def key(self, raw: str | bytes) -> str:
        """The key of the chunk that the engine itself calls `raw`. Different ones give different keys.

        Raises:
            InvalidKeyError: `raw` is empty, or neither a text nor bytes.
        """
        if isinstance(raw, str) and raw and raw.isascii() and raw.isprintable() and "~" not in raw:
            written = raw  # nearly all are such
        else:
            written = _written(raw)
        if len(written) > MAX_RAW // 4 and len(written.encode()) > MAX_RAW:
            written = _HASHED + hashlib.blake2b(written.encode(), digest_size=32, person=b"raw key").hexdigest()
        return self.prefix + written

    def raw(self, key: str) -> str | bytes | None:
        """What `key` was given for this key. None: the key is another namespace's, or holds a digest of a long one."""
        if not key.startswith(self.prefix):
            return None
        written = key[len(self.prefix) :]
        if written.startswith(_HASHED):
            return None
        if written.startswith(_BYTES):
            return bytes.fromhex(written[len(_BYTES) :])
        return _ESCAPED.sub(_unescaped, written)

    def with_salt(self, salt: str | bytes) -> Namespace:
        """The namespace of the same identity with this salt: for an engine whose requests have salts of their own."""
        if (known := self._salted.get(salt)) is not None:
            return known
        made = Namespace(dataclasses.replace(self.identity, salt=salt))
        if len(self._salted) >= _MOST_SALTS:
            self._salted = {}  # one step for other threads: they have the old one or the new one
        self._salted[salt] = made
        return made

    def status(self) -> dict[str, Any]:
        """What an engine's status shows: the labels, the digest, and the fields that are not known. No salt."""
        return {
            "prefix": self.prefix,
            "model": self.model_label,
            "tenant": self.tenant_label,
            "digest": self.digest,
            "unknown": list(self.unknown),
        }

    def _missing(self) -> str:
        return "; ".join(_ADVICE[name] for name in self.unknown)

    def __repr__(self) -> str:
        return f"<Namespace {self.prefix}>"


_told: Final[set[tuple[str, str, tuple[str, ...]]]] = set()
_telling: Final = threading.Lock()


def _tell_unknown(namespace: Namespace) -> None:
    identity = namespace.identity
    fact = (identity.engine, identity.model, namespace.unknown)
    with _telling:
        if fact in _told:
            return
        _told.add(fact)
    event(
        logging.WARNING,
        "identity_unknown",
        engine=identity.engine,
        model=identity.model,
        cannot_tell_apart=", ".join(namespace.unknown),
        write=namespace._missing(),
    )


def _written(raw: object) -> str:
    if isinstance(raw, bytes | bytearray | memoryview) and len(raw):
        return _BYTES + bytes(raw).hex()
    if not isinstance(raw, str) or not raw:
        raise InvalidKeyError(raw, "expected a text or bytes that are not empty")
    return _SPECIAL.sub(_escaped, raw)


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"~{byte:02x}" for byte in match.group().encode("utf-8", "surrogatepass"))


def _unescaped(match: re.Match[str]) -> str:
    return bytes.fromhex(match.group().replace("~", "")).decode("utf-8", "surrogatepass")
