"""`Dispatcher`: hands the results of a port to an adapter, from a thread of its own."""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable
from typing import Final

from ...observability import RepeatedEvent
from ...outside import described
from ..event_descriptor import EventDescriptor
from ..job import JobResult
from ..jobs import JobPort


class Dispatcher:
    """Waits for the results of a port, and calls `tell` with each, in its own thread. What `tell` raises is logged.

    LMCache watches three descriptors of an adapter, one for each kind of task, and a port has one.
    """

    def __init__(self, port: JobPort, tell: Callable[[JobResult], None]) -> None:
        self._port: Final = port
        self._tell: Final = tell
        self._end: Final = EventDescriptor()
        self._failed: Final = RepeatedEvent("engine_listener_failed")
        self._thread: Final = threading.Thread(target=self._run, name="lmcache-connect-l2", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether results are handed on."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread. Results that come later are not handed on. Idempotent. Not from `tell`."""
        self._end.set()
        self._thread.join()
        self._end.close()

    def _run(self) -> None:
        watched = select.poll()
        watched.register(self._port.event_fd, select.POLLIN)
        end = self._end.fileno()
        watched.register(end, select.POLLIN)
        while end not in [number for number, _ in watched.poll()]:
            for result in self._port.drain():
                try:
                    self._tell(result)
                except Exception as error:  # of a listener of LMCache's: the next result has to come through
                    self._failed.tell(logging.ERROR, error=described(error))
