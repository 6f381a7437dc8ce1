"""Files that hold a secret: reading one, and the warning where others may read it."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

from .events import event

_MAX_BYTES: Final = 64 << 10

_TOLD: Final = 256
"""For so many files it is remembered that they were told of."""

_told: dict[tuple[str, int], None] = {}


def read_secret_file(file: str | Path) -> bytes:
    """What a file with a secret holds, at most 64 KiB. Warns as `warn_if_open_to_others` does.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(file).open("rb") as opened:
        warn_if_open_to_others(str(file), opened.fileno())
        return opened.read(_MAX_BYTES)


def warn_if_open_to_others(file: str, descriptor: int) -> None:
    """Warns once where others than the owner may read or write an open file with a secret.

    It does where this process could forbid it: the file is its own, and not on a file system that is mounted read-only,
    as the secrets of containers are.
    """
    found = os.fstat(descriptor)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode) or not mode & 0o066 or found.st_uid != os.geteuid():
        return
    if (file, mode) in _told or os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        return
    if len(_told) >= _TOLD:
        _told.clear()
    _told[file, mode] = None
    event(
        logging.WARNING,
        "secret_file_open_to_others",
        file=file,
        mode=f"{mode:04o}",
        advice=f"others may read or change it: chmod {mode & 0o700:03o}",
    )
