"""`SharedLoop`: the one event loop that all ports of a process share, while there are any."""

from __future__ import annotations

import threading
from typing import Final

from ..loop import LoopOwner
from ..process import this_process
from .job import WHY, Job
from .loop_position import may_touch_memory
from .watchdog import Watchdog

_START_SECONDS: Final = 10.0


class SharedLoop:
    """An event loop in a thread of its own, and the watchdog over the jobs that run on it."""

    def __init__(self) -> None:
        """Starts the loop's thread."""
        self.process: Final = this_process()
        self.owner: Final = LoopOwner.start("lmcache-connect jobs")
        self._thread: Final = self.owner.run_sync("JobPort", _START_SECONDS, _this_thread)
        self.trusted: frozenset[str] = frozenset()
        """Packages of others whose connectors are given an engine's memory itself."""
        self.watchdog: Final = Watchdog(self.force_end)

    def force_end(self, job: Job, why: str) -> bool:
        """Ends a job without the loop's help. Returns whether it is over, and nothing touches its memory any more.

        Its lease is recalled: what works for it in threads is interrupted, and nothing begins to touch its memory. What
        is still under way at this moment takes a few milliseconds at most, so the caller asks again. From any thread.
        """
        job.stopped = job.stopped or why
        job.lease.recall()
        if job.is_over:
            return True
        task = job.task
        if not (task is not None and task.done()) and not (
            job.lease.is_idle and not may_touch_memory(self._thread, self.trusted)
        ):
            return False
        job.let_go()
        job.fail(why, f"{WHY[why]}, and the event loop did not end it")
        return True

    def close(self) -> None:
        """Ends the loop's thread and the watchdog. Blocks for ten seconds at most."""
        if not self.process.is_forked():
            self.watchdog.close()
            self.owner.close_sync()


async def _this_thread() -> int:
    return threading.get_ident()
