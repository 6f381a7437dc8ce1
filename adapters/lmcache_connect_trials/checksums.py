"""`Checksums`: which chunks a get may bring, judged by what was put."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

_POSSIBLE_LIMIT: Final = 8


@dataclass(eq=False)
class Record:
    """The checksums of the chunks that may be found under one key."""

    last: int | None = None
    """Of the last put. None where nothing is known: the chunk may be of another writer."""
    possible: set[int] = field(default_factory=set)
    """Of puts under way, and of puts that failed: their chunks may have been stored, or may be stored later."""
    writers: int = 0
    is_contested: bool = False
    """Whether the puts under way overlap, so that it is not known which one the store does last."""
    puts: int = 0
    """Puts that succeeded."""


Reading = tuple[Record, int]
"""A get under way: the record of its key, and how many puts had succeeded when it began."""


class Checksums:
    """The checksums of what one connector put, of the `limit` keys that were used last. Belongs to one event loop.

    It prefers saying nothing to a wrong alarm: nothing is known of a get that overlaps the end of a put of its key.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: OrderedDict[str, Record] = OrderedDict()

    def begin_put(self, name: str, checksum: int) -> Record:
        """Call before a chunk is put. Returns what `end_put` takes."""
        record = self._records.setdefault(name, Record())
        self._records.move_to_end(name)
        record.possible.add(checksum)
        record.writers += 1
        record.is_contested |= record.writers > 1
        for oldest in list(islice(self._records, max(0, len(self._records) - self._limit))):
            self.forget(oldest)
        return record

    def end_put(self, record: Record, checksum: int, succeeded: bool) -> None:
        """Call when the put has ended."""
        record.writers -= 1
        record.puts += succeeded
        if record.is_contested:
            record.last = None
            record.is_contested = record.writers > 0
        elif succeeded:
            record.last = checksum
            record.possible.discard(checksum)
        if len(record.possible) > _POSSIBLE_LIMIT:
            record.possible.clear()
            record.last = None

    def begin_get(self, name: str) -> Reading:
        """Call before a chunk is read. Returns what `allowed` takes."""
        if (record := self._records.get(name)) is None:
            return Record(), 0
        self._records.move_to_end(name)
        return record, record.puts

    def allowed(self, reading: Reading) -> set[int] | None:
        """The checksums that a chunk which was read may have; None where nothing is known of its key."""
        record, puts = reading
        return None if record.last is None or record.puts != puts else {record.last, *record.possible}

    def forget(self, name: str) -> None:
        """Call when the key was removed, or may have been: another writer may use it next."""
        if (record := self._records.get(name)) is not None:
            record.last = None
            if not record.writers:
                del self._records[name]
