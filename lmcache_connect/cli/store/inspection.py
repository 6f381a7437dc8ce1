"""`lmcache-connect inspect`: what a store holds under one key, and whether it is whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import xxhash

from ...contract import KeyFacts
from ...keys import check_key_string
from ...memory import MemoryObj
from ...metadata import ChunkMetadata
from ..frame.opening import command_config, open_store
from ..frame.payloads import Reading, read_payload
from .key_parts import KeyParts

_PIECE: Final = 8 << 20


@dataclass(frozen=True)
class InspectReport:
    """A key of a store. `store` is a redacted URL, `label` the store's address.

    `facts` is None where the store holds no such key. `reading` says what came of reading the payload, "" where it was
    not read, and `why` more of that. `metadata` is that of the chunk that was read, or what its header says. `xxh3` is
    the hash of the payload. `problems` are all that is wrong with it.
    """

    store: str
    label: str
    key: str
    parts: KeyParts
    facts: KeyFacts | None
    reading: Reading | None
    why: str
    metadata: ChunkMetadata | None
    xxh3: int | None
    problems: tuple[str, ...]

    @property
    def is_found(self) -> bool:
        """Whether the store holds the key."""
        return self.facts is not None

    @property
    def ok(self) -> bool:
        """Whether the store holds the key, and nothing was found that is wrong with it."""
        return self.is_found and not self.problems


async def inspect_key(url: str, key: str, *, payload: bool, memory: int | None = None) -> InspectReport:
    """Looks at the record of a key. With `payload`, reads and verifies it whole. Changes and removes nothing.

    `memory`: bytes for the payload; None: as the settings say.

    Raises:
        InvalidKeyError: no key can be called that.
        LMCacheConnectError: the store cannot be used.
    """
    check_key_string(key)
    config = command_config() if memory is None else command_config(max_local_cpu_bytes=memory)
    async with open_store(url, config=config) as connector:
        [facts] = await connector.describe([key], records=True)
        reading: Reading | None = None
        why, xxh3 = "", None
        metadata = None if facts is None else facts.metadata
        problems: list[str] = []
        if facts is not None and facts.missing:
            problems.append(f"missing: {_parts(facts.missing)} of {facts.pieces}")
        if facts is not None and facts.problem:
            problems.append(facts.problem)
        if facts is not None and payload:
            found = await read_payload(connector, key, facts)
            reading, why = found.reading, found.why
            if found.chunk is not None:
                with found.chunk as chunk:
                    xxh3 = _hash(chunk)
                    if metadata is not None and metadata != chunk.metadata:
                        problems.append("it was replaced while it was looked at")
                    metadata = chunk.metadata
            elif reading is Reading.DAMAGED and why not in problems:
                problems.append(why)
            elif reading is Reading.MISSING and not problems:
                problems.append("a get of it is a miss: it has gone meanwhile, or cannot be read here")
        store, label = connector.context.remote_url.redacted(), connector.store
    return InspectReport(store, label, key, KeyParts.of(key), facts, reading, why, metadata, xxh3, tuple(problems))


def _hash(chunk: MemoryObj) -> int:
    hasher = xxhash.xxh3_64()
    with chunk.byte_array as view:
        for start in range(0, len(view), _PIECE):
            hasher.update(view[start : start + _PIECE])
    return hasher.intdigest()


def _parts(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"piece {shown}" if len(numbers) == 1 else f"pieces {shown}" + (", ..." if len(numbers) > 8 else "")
