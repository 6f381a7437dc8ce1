"""`RememberedChecksums`: what a get may bring, by what was put."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from lmcache_connect.record import key_digest

_VERSIONS_LIMIT: Final = 8
"""Chunks that puts which failed may have left under a key; with more, nothing is known of it until the next put."""


@dataclass(eq=False)
class Version:
    """One chunk that was put, or is being put. Times are turns of `RememberedChecksums`."""

    checksum: int
    began: int
    is_under_way: bool = True
    ended: int | None = None
    """When the put succeeded. None while it is under way, and for ever where it failed: the chunk may have arrived."""
    replaced: int | None = None
    """When a put succeeded that had begun after this one's end."""


@dataclass(eq=False)
class Reading:
    """One get under way."""

    began: int
    history: History | None


@dataclass(eq=False)
class History:
    """What is known of one key: its versions, and since when every chunk that may be found is one of them."""

    versions: list[Version] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    known_since: int | None = None

    @property
    def is_in_use(self) -> bool:
        """Whether a put or a get is under way."""
        return bool(self.readings) or any(version.is_under_way for version in self.versions)

    def tidy(self) -> None:
        """Lets go of the versions that no get can bring any more."""
        oldest = min((reading.began for reading in self.readings), default=None)
        self.versions = [
            version
            for version in self.versions
            if version.replaced is None or (oldest is not None and version.replaced > oldest)
        ]
        if sum(not version.is_under_way and version.ended is None for version in self.versions) > _VERSIONS_LIMIT:
            self.versions = [version for version in self.versions if version.is_under_way]
            self.known_since = None


class RememberedChecksums:
    """The checksums of the chunks that one connector has put, of the `limit` keys that were used last.

    A get may bring what was put last, what was being put meanwhile, or what a failed put may have left. What others put
    under a key that this connector never put is not known, and neither is a key that was forgotten: for these `check`
    says so. Belongs to one event loop.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turn = 0
        self._histories: OrderedDict[bytes, History] = OrderedDict()

    def __len__(self) -> int:
        return len(self._histories)

    def begin_put(self, name: str, checksum: int) -> Version:
        """A put of a chunk with this checksum begins; `end_put` follows."""
        digest = key_digest(name)
        history = self._histories.setdefault(digest, History())
        self._histories.move_to_end(digest)
        version = Version(checksum, self._next())
        history.versions.append(version)
        for oldest in list(islice(self._histories, max(0, len(self._histories) - self._limit))):
            if not self._histories[oldest].is_in_use:
                del self._histories[oldest]
        return version

    def end_put(self, name: str, version: Version, succeeded: bool) -> None:
        """The put has ended. One that did not succeed may have stored its chunk all the same."""
        history = self._histories[key_digest(name)]  # it was in use
        version.is_under_way = False
        now = self._next()
        if succeeded:
            version.ended = now
            for other in history.versions:
                if other.replaced is None and other.ended is not None and other.ended < version.began:
                    other.replaced = now
            if history.known_since is None:
                history.known_since = now
        history.tidy()

    def begin_get(self, name: str) -> Reading:
        """A get begins; `end_get` follows."""
        digest = key_digest(name)
        history = self._histories.get(digest)
        reading = Reading(self._next(), history)
        if history is not None:
            history.readings.append(reading)
            self._histories.move_to_end(digest)
        return reading

    def check(self, reading: Reading, checksum: int) -> bool | None:
        """Whether a chunk with this checksum may be what the get brings; None where nothing is known of its key."""
        history = reading.history
        if history is None or history.known_since is None or history.known_since > reading.began:
            return None
        return any(
            version.checksum == checksum and (version.replaced is None or version.replaced > reading.began)
            for version in history.versions
        )

    def end_get(self, reading: Reading) -> None:
        """The get has ended."""
        if (history := reading.history) is not None:
            history.readings.remove(reading)
            history.tidy()

    def forget(self, name: str) -> None:
        """The key was removed, or may have been: what is found under it next may be anybody's."""
        digest = key_digest(name)
        history = self._histories.get(digest)
        if history is None:
            return
        history.known_since = None
        if not history.is_in_use:
            del self._histories[digest]

    def _next(self) -> int:
        self._turn += 1
        return self._turn
