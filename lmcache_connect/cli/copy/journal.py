"""`Journal`: the state file of a copy. It spares a further run the payloads of what this one has copied.

A line of it says that a key was copied, and what both stores' records looked like then. It is a hint, never the truth:
a key is skipped by it only where both records still look like that. So a state file that is old, cut off or lost costs
time alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TextIO

from ...contract import KeyFacts
from ...errors import InvalidArgumentError

_FORMAT: Final = "lmcache-connect cp 1"


class Journal:
    """Knows what was copied between two stores."""

    def __init__(self, path: Path, source: str, destination: str) -> None:
        """Reads the file, or begins one. `source` and `destination` are the stores' addresses.

        Raises:
            InvalidArgumentError: it is the state file of another copy, or something else.
            OSError: it cannot be read or written.
        """
        self._known: dict[bytes, bytes] = {}
        head = {"format": _FORMAT, "source": source, "destination": destination}
        is_new = not path.exists() or not path.stat().st_size
        is_cut_off = not is_new and not self._read(path, head)
        self._file: TextIO = path.open("a", encoding="utf-8")
        if is_new:
            self._write([head])
        elif is_cut_off:
            self._file.write("\n")

    def _read(self, path: Path, head: dict[str, str]) -> bool:
        """Reads the lines. Returns whether the last one has its end."""
        with path.open(encoding="utf-8", errors="replace") as lines:
            line = lines.readline()
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                found = None
            if found != head:
                raise InvalidArgumentError(
                    "state", f"{path} is not the state file of this copy; name another file, or remove it"
                )
            for line in lines:
                try:
                    key, looks = json.loads(line)
                    self._known[_digest(key)] = bytes.fromhex(looks)
                except (ValueError, TypeError, AttributeError, RecursionError):
                    continue  # cut off, or overwritten
        return line.endswith("\n")

    def knows(self, key: str, source: KeyFacts, destination: KeyFacts) -> bool:
        """Whether a key was copied when both records looked as they do now."""
        looks = _looks(source, destination)
        return looks is not None and self._known.get(_digest(key)) == looks

    def note(self, copied: Iterable[tuple[str, KeyFacts, KeyFacts]]) -> None:
        """Notes keys that are the same in both stores, with what their records look like there."""
        lines: list[Any] = []
        for key, source, destination in copied:
            looks = _looks(source, destination)
            if looks is not None:
                lines.append([key, looks.hex()])
        self._write(lines)

    def close(self) -> None:
        """Closes the file. Idempotent."""
        self._file.close()

    def _write(self, lines: Iterable[Any]) -> None:
        self._file.write("".join(json.dumps(line) + "\n" for line in lines))
        self._file.flush()


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _looks(source: KeyFacts, destination: KeyFacts) -> bytes | None:
    """What both records look like; None where one has no checksum, which would tell it from another."""
    for facts in (source, destination):
        if not facts.sums or facts.metadata is None or not facts.is_sound:
            return None
    text = repr([(facts.metadata, facts.sums) for facts in (source, destination)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
