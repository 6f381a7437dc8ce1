"""`LoopIO`: what the event loop's thread does with files, databases and the network while a block runs."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_EVENTS: Final = frozenset(
    {
        "os.mkdir",
        "os.system",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "sqlite3.connect",
        "subprocess.Popen",
    }
)
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_COUNTERS: Final = Path("/proc/thread-self/io")

_watching: dict[int, list[str]] = {}  # by thread; 0 for all of them
_has_hook = threading.Lock()


class LoopIO:
    """Notes, while its `with` block runs, what the thread that made it opens, connects to and reads.

        with LoopIO() as io:
            connector = manager.create_connector(url)
        assert not io.opened

    Python's audit events tell of connections, databases, processes and files that are opened for writing. The counters
    of Linux tell of bytes that are read from files; on other systems `bytes_read` stays 0. Sockets are not counted.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        """`everywhere`: what other threads open and connect to is noted as well."""
        self._thread = 0 if everywhere else threading.get_ident()
        self.opened: list[str] = []
        """What was opened or connected to, as the names of audit events with their first argument."""
        self.bytes_read = 0
        """How many bytes the thread has read from files."""
        self._before = 0

    def __enter__(self) -> Self:
        if _has_hook.acquire(blocking=False):  # once in a process: a hook cannot be removed
            sys.addaudithook(_note)
        _watching[self._thread] = self.opened
        self._before = _bytes_read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bytes_read = _bytes_read() - self._before
        _watching.pop(self._thread, None)


def _note(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    opened = _watching.get(threading.get_ident(), _watching.get(0))
    if opened is None:
        return
    if event in _EVENTS:
        # The first argument of a socket's events is the socket itself.
        what = args[1] if event == "socket.connect" else args[0] if args else ""
        opened.append(f"{event}({what!r})")
    elif event == "open" and len(args) > 2 and isinstance(args[2], int) and args[2] & _WRITES:
        opened.append(f"open({args[0]!r}) for writing")


def _bytes_read() -> int:
    try:
        lines = _COUNTERS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("rchar:")), 0)
