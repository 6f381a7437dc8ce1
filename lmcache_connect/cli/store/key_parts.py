"""`KeyParts`: whose chunk a key names, as far as the key says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ...errors import InvalidKeyError
from ...keys import LayerCacheEngineKey, parse_key

_ENGINE: Final = "lc1"
_ENGINE_PARTS: Final = 5
_SEPARATORS: Final = re.compile(r"[@/:]")

OTHER: Final = "(other)"
"""The model and tenant of a key that names none."""


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What a key says. "": it does not say that.

    `kind` is `engine` for keys of this toolkit's engines (`lc1@...`), `lmcache` for LMCache's, and `other`.
    """

    kind: str
    model: str = ""
    tenant: str = ""
    digest: str = ""
    raw: str = ""
    dtype: str = ""
    worker: str = ""
    layer: int | None = None
    tags: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, key: str) -> KeyParts:
        """The parts of a key."""
        parts = key.split("@", _ENGINE_PARTS - 1)
        if parts[0] == _ENGINE and len(parts) == _ENGINE_PARTS:
            _, model, tenant, digest, raw = parts
            return cls("engine", model, tenant, digest, raw)
        if key.count("@") >= 4:
            try:
                known = parse_key(key)
            except InvalidKeyError:
                return cls("other")
            tags = known.tags or ()
            return cls(
                "lmcache",
                known.model_name,
                dict(tags).get("tenant", ""),
                raw=known.chunk_hash_hex,
                dtype=known.dtype.name,
                worker=f"{known.worker_id} of {known.world_size}",
                layer=known.layer_id if isinstance(known, LayerCacheEngineKey) else None,
                tags=tags,
            )
        return cls("other")


def start_of(key: str, depth: int) -> str:
    """What a key begins with, up to its separator number `depth`: `@`, `/` or `:`."""
    end = 0
    for _ in range(depth):
        found = _SEPARATORS.search(key, end)
        if found is None:
            return key
        end = found.end()
    return key[:end]
