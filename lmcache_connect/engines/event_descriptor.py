"""`EventDescriptor`: a file descriptor that an engine's own event loop watches for finished jobs."""

from __future__ import annotations

import os
from typing import Final

_ONE: Final = (1).to_bytes(8, "little")
"""What sets an eventfd. A pipe takes it as well."""

_READ_BYTES: Final = 4096


class EventDescriptor:
    """A descriptor that is readable after `set`, until `clear`. It is closed on exec, and never blocks.

    It is an eventfd where the system has it, and the reading end of a pipe elsewhere. A reader may also read it: that
    clears it. Its owner holds a lock around each call. The number is another file's after `close`.
    """

    __slots__ = ("_read", "_write")

    def __init__(self, *, pipe: bool = False) -> None:
        """`pipe`: makes a pipe also where the system has eventfds.

        Raises:
            OSError: the process may have no further descriptor.
        """
        if hasattr(os, "eventfd") and not pipe:
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return
        self._read, self._write = os.pipe()  # neither end is inherited
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The number of the descriptor to watch; -1 after `close`."""
        return self._read

    def set(self) -> None:
        """Makes it readable. Does nothing after `close`."""
        if self._write >= 0:
            try:
                os.write(self._write, _ONE)
            except BlockingIOError:
                pass  # it is full, and so it is readable

    def clear(self) -> None:
        """Ends that it is readable. Does nothing after `close`."""
        if self._read < 0:
            return
        try:
            while len(os.read(self._read, _READ_BYTES)) == _READ_BYTES:
                pass
        except BlockingIOError:
            pass  # somebody else has read it

    def close(self) -> None:
        """Closes the descriptor. Idempotent."""
        read, write = self._read, self._write
        self._read = self._write = -1
        if read >= 0:
            os.close(read)
        if write not in (read, -1):
            os.close(write)
