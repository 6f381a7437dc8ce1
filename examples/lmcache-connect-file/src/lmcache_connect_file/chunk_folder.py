"""`ChunkFolder`: the files of all chunks, and the removal of old ones. Methods block; any thread may call them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import Final, TypeVar

from lmcache_connect import MemoryObj
from lmcache_connect.errors import ValueTooLargeError, WrongTypeError

from .chunk_file import EXTRA_BYTES, ChunkFile, StoppedError, write_chunk
from .failures import translated

T = TypeVar("T")

STALE: Final = 3600.0
"""Seconds without a write after which a temporary file belongs to a dead process."""

_LONGEST_WAIT: Final = 600.0
"""Seconds between two sweeps, while chunks are stored."""

_SUBFOLDER: Final = re.compile(r"[0-9a-f]{2}")
_NAME: Final = re.compile(r"[0-9a-f]{38}")


class ChunkFolder:
    """Files that are named by the digest of their key, so that any key is possible and none leads out of the folder.

    Several processes may use one folder. Each of them enforces `max_bytes` alone: it looks at the whole folder again
    before it has added a tenth of `max_bytes`. So n processes may exceed the limit by n - 1 tenths.
    """

    def __init__(self, root: Path, store: str, ttl: float | None, max_bytes: int | None) -> None:
        self._root = root
        self._work = root / "tmp"
        self._store = store
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._coming = 0  # bytes of files that are being written
        self._added = 0  # bytes written, or being written, since the last sweep
        self._next_sweep = 0.0

    def exists(self, keys: Sequence[str], stop: Event) -> list[bool]:
        """Whether each key has a file that has not expired."""
        return list(self._each(keys, self._is_there, stop))

    def open(self, key: str) -> ChunkFile | None:
        """The chunk's file, which the caller closes; None for a missing chunk."""
        with translated(self._store):
            try:
                file = ChunkFile(self.path(key), self._store)
            except FileNotFoundError:
                return None
            if self._is_expired(file.facts):
                file.close()
                self._remove_seen(self.path(key), file.facts)
                return None
            if self._max_bytes is not None:
                self._note_use(file)
            return file

    def write(self, key: str, obj: MemoryObj, stop: Event) -> None:
        """Creates or replaces the chunk's file."""
        path = self.path(key)
        nbytes = obj.get_size() + EXTRA_BYTES
        with translated(self._store), obj.byte_array as payload:
            for folder in (self._root, self._work, path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(nbytes)
            try:
                write_chunk(path, self._work, key, obj.metadata, payload, stop)
            finally:
                with self._lock:
                    self._coming -= nbytes

    def remove(self, key: str) -> bool:
        """Removes the chunk's file. Returns whether it was there."""
        with translated(self._store):
            try:
                self.path(key).unlink()
            except FileNotFoundError:
                return False
            return True

    def keys(self, stop: Event) -> list[str]:
        """The keys of all chunks that have not expired."""
        return [key for key in self._each(self._files(), self._key_of, stop) if key is not None]

    def probe(self) -> None:
        """Creates a file and removes it. Raises the error that a put would raise."""
        with translated(self._store):
            for folder in (self._root, self._work):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = self._work / f"probe-{os.urandom(8).hex()}"
            file.touch(mode=0o600, exist_ok=False)
            file.unlink()

    def path(self, key: str) -> Path:
        """The path of the chunk's file."""
        digest = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self._root / digest[:2] / digest[2:]

    # -------------------------------------------------------------------------------------------------- sweeping

    def _make_room(self, nbytes: int) -> None:
        if self._max_bytes is not None and nbytes > self._max_bytes:
            raise ValueTooLargeError(self._store, nbytes, self._max_bytes)
        tenth = None if self._max_bytes is None else self._max_bytes // 10
        with self._lock:
            if (tenth is not None and self._added + nbytes > tenth) or time.monotonic() >= self._next_sweep:
                room = None
                if tenth is not None and self._max_bytes is not None:
                    room = max(0, self._max_bytes - max(tenth, self._coming + nbytes))
                self._sweep(room)
                self._added = self._coming
                wait = _LONGEST_WAIT if self._ttl is None else min(_LONGEST_WAIT, self._ttl / 4)
                self._next_sweep = time.monotonic() + wait
            self._coming += nbytes
            self._added += nbytes

    def _sweep(self, room: int | None) -> None:
        """Removes files of dead processes and expired chunks, then the chunks that were not read for longest."""
        for path in _contents(self._work):
            facts = _facts(path)
            if facts is not None and time.time() - facts.st_mtime > STALE:
                path.unlink(missing_ok=True)
        kept: list[tuple[int, os.stat_result, Path]] = []
        for path in self._files():
            if (facts := _facts(path)) is None:
                continue
            if self._is_expired(facts):
                self._remove_seen(path, facts)
            else:
                kept.append((facts.st_atime_ns, facts, path))
        if room is None:
            return
        total = sum(facts.st_size for _, facts, _ in kept)
        for _, facts, path in sorted(kept, key=lambda one: one[0]):
            if total <= room:
                break
            self._remove_seen(path, facts)
            total -= facts.st_size

    def _remove_seen(self, path: Path, seen: os.stat_result) -> None:
        """Removes the file that was seen at `path`, and not one that a writer has put there since."""
        if (now := _facts(path)) is None or not _are_same(now, seen):
            return
        aside = self._work / f"old-{os.urandom(8).hex()}"
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        try:
            if not _are_same(aside.stat(), seen):  # it was replaced since the last look: back with it
                os.link(aside, path)
        except FileExistsError:
            pass  # and replaced again
        finally:
            aside.unlink()

    def _note_use(self, file: ChunkFile) -> None:
        try:
            # Explicitly, because most file systems are mounted so that reading seldom updates this time.
            os.utime(file.fileno(), ns=(time.time_ns(), file.facts.st_mtime_ns))
        except OSError:
            pass  # another user's file, or a read-only mount: reading it is still possible

    # ---------------------------------------------------------------------------------------------------- inside

    def _is_there(self, key: str) -> bool:
        facts = _facts(self.path(key))
        return facts is not None and not self._is_expired(facts)

    def _is_expired(self, facts: os.stat_result) -> bool:
        return self._ttl is not None and time.time() - facts.st_mtime >= self._ttl

    def _key_of(self, path: Path) -> str | None:
        try:
            file = ChunkFile(path, self._store)
        except (FileNotFoundError, WrongTypeError):
            return None
        try:
            key = None if self._is_expired(file.facts) else file.read_key()
        finally:
            file.close()
        return key if key is not None and self.path(key) == path else None

    def _files(self) -> Iterator[Path]:
        for folder in _contents(self._root):
            if _SUBFOLDER.fullmatch(folder.name):
                for path in _contents(folder):
                    if _NAME.fullmatch(path.name):
                        yield path

    def _each(self, items: Sequence[str] | Iterator[Path], ask: Callable[..., T], stop: Event) -> Iterator[T]:
        with translated(self._store):
            for item in items:
                if stop.is_set():
                    raise StoppedError
                yield ask(item)


def _contents(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _are_same(one: os.stat_result, other: os.stat_result) -> bool:
    # A new file may have the number of one that was removed, but not its time as well.
    return (one.st_dev, one.st_ino, one.st_mtime_ns) == (other.st_dev, other.st_ino, other.st_mtime_ns)


def _facts(path: Path) -> os.stat_result | None:
    """The status of a regular file; None for anything else."""
    try:
        facts = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return facts if stat.S_ISREG(facts.st_mode) else None
