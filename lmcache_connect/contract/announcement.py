"""`WorkerAnnouncement`: what a manager tells the other managers that share its store."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..known_secrets import clean

MAX_ANNOUNCEMENT_BYTES: Final = 32 << 10
"""The size of one stored announcement, in bytes. A larger one is not read."""

MAX_WORKERS: Final = 4096
"""How many announcements are read from one store."""

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Text = Annotated[str, Field(max_length=256)]
Seconds = Annotated[float, Field(ge=0, lt=1e12, allow_inf_nan=False)]


class _Announced(BaseModel):
    # Other releases write to the same store: a field that this one does not know is ignored.
    model_config = ConfigDict(frozen=True, extra="ignore")


class AnnouncedStatistics(_Announced):
    """Counters of all operations of one kind on one connector. `bytes` are of chunks."""

    calls: Count = 0
    keys: Count = 0
    hits: Count = 0
    misses: Count = 0
    errors: Count = 0
    bytes: Count = 0


class AnnouncedConnector(_Announced):
    """One connector of a worker, with its counters by operation (`get`, `batched_put`, ...)."""

    name: Text
    store: Text
    kind: Text
    breaker: Text
    bypass: bool = False
    in_flight: Count = 0
    statistics: Annotated[dict[Text, AnnouncedStatistics], Field(max_length=64)] = Field(default_factory=dict)


class AnnouncedArena(_Announced):
    """A worker's memory for chunks, in bytes, and the keys in its hot cache."""

    capacity: Count = 0
    reserved: Count = 0
    cached_keys: Count = 0
    cached_bytes: Count = 0


class WorkerAnnouncement(_Announced):
    """What one manager says of itself at the time `announced`. Holds no secret and no key.

    Times are seconds since 1970 by the manager's own clock.
    """

    worker: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
    """The manager's name. No other manager has had it."""
    host: Text
    pid: Count
    version: Text
    started: Seconds
    announced: Seconds
    api: Text | None = None
    """Where its internal API listens; None where it has none."""
    connectors: Annotated[tuple[AnnouncedConnector, ...], Field(max_length=64)] = ()
    arena: AnnouncedArena = AnnouncedArena()

    def encode(self) -> bytes:
        """The announcement as it is stored: JSON of at most `MAX_ANNOUNCEMENT_BYTES`, without statistics if need be."""
        document = clean(self.model_dump_json()).encode()
        if len(document) > MAX_ANNOUNCEMENT_BYTES:
            bare = tuple(item.model_copy(update={"statistics": {}}) for item in self.connectors)
            document = clean(self.model_copy(update={"connectors": bare}).model_dump_json()).encode()
        return document

    @classmethod
    def decode(cls, document: bytes) -> WorkerAnnouncement | None:
        """The announcement in a stored document; None where the document is not one."""
        if len(document) > MAX_ANNOUNCEMENT_BYTES:
            return None
        try:
            return cls.model_validate_json(document)
        except ValidationError:
            return None
