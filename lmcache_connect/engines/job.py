"""`Job`: one submitted batch, from its submission to its one result.

The states of a job. What stands on the arrows happens in the caller's thread, on the event loop, or in the watchdog's
thread, as it says there:

           submit            loop: begin              loop: the operation has ended
      made ───────▶ waiting ────────────▶ under way ───────────────────────────────▶ over ──▶ its result
                       │                      │                                       ▲
                       │ loop: end            │ loop: end, which cancels its task ────┤
                       └──────────────────────┴───────────────────────────────────────┤
                                              │ watchdog: recalls its lease, and sees │
                                              └ that nothing touches its buffers ─────┘

A job is over once. The first of them gives the result; what the others find out is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ..contract import CallerMemory
from ..lease import Lease
from ..observability import JobKind

WHY: Final = {
    "deadline": "it did not end within its deadline",
    "closed": "the port was closed",
    "released": "the engine frees its memory",
}
"""Why a job is ended early: a word, by which it is counted, and what its result says."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What has become of a job.

    Attributes:
        id: what `submit_*` returned.
        kind: `get`, `put`, `exists` or `remove`.
        flags: one answer per key, in order. False: a miss, or a failure.
        error: why the job failed: `reason`, a colon and a text. Flags of a load that are True nevertheless are chunks
            that had come before, verified. All others are False. None: it did not fail.
        seconds: from its submission to its end.
        nbytes: the bytes of the chunks whose flags are True; 0 for `exists` and `remove`.
        reason: the class of the error, or one of the words of `JobPort`, by which failures are counted; or None.
    """

    id: int
    kind: JobKind
    flags: tuple[bool, ...]
    error: str | None
    seconds: float
    nbytes: int
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every flag is True."""
        return all(self.flags)


class JobOwner(Protocol):
    """What knows of a port's jobs. Both methods are called from any thread."""

    def job_begins(self, job: Job) -> None: ...

    def job_is_over(self, job: Job, flags: Sequence[bool] | None, reason: str | None, error: str | None) -> None: ...


class Job:
    """One submitted batch. The module describes its states."""

    __slots__ = (
        "_owner",
        "deadline",
        "id",
        "is_over",
        "keys",
        "kind",
        "lease",
        "nbytes",
        "needs_room",
        "sizes",
        "stopped",
        "submitted",
        "task",
        "theirs",
        "timer",
    )

    def __init__(
        self,
        job_id: int,
        kind: JobKind,
        keys: Sequence[str],
        theirs: CallerMemory | None,
        seconds: float,
        owner: JobOwner,
    ) -> None:
        """`seconds` from now it has to be over. `owner` is told what becomes of it."""
        self.id: Final = job_id
        self.kind: Final[JobKind] = kind
        self.keys: Final = keys
        self.theirs: CallerMemory | None = theirs
        """The memory that the engine owns; None where the kind has none, or where nothing touches it any more."""
        self.sizes: Final = tuple(item.nbytes for item in theirs.regions) if theirs is not None else (0,) * len(keys)
        self.nbytes: Final = sum(self.sizes)
        self.lease: Final = Lease()
        self.submitted: Final = time.monotonic()
        self.deadline: Final = self.submitted + seconds
        """When it has to be over, by `time.monotonic`."""
        self._owner = owner
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.stopped: str | None = None
        """Why it is ended early, in one word."""
        self.needs_room = False
        """Whether its bytes count as waiting. The port's, under the port's lock."""
        self.is_over = False
        """Whether its result is there. Written by the port, under the port's lock."""

    def begin(self) -> None:
        """Its operation begins."""
        self._owner.job_begins(self)

    def succeed(self, flags: Sequence[bool]) -> None:
        """Gives the store's answers. From any thread."""
        self._owner.job_is_over(self, flags, None, None)

    def fail(self, reason: str, error: str, came: Sequence[bool] | None = None) -> None:
        """Gives a failure: a word or the class of the error, and its text. From any thread.

        `came`: for each key whether its chunk had come before. None: it is a failure of all keys.
        """
        self._owner.job_is_over(self, came, reason, error)

    def chunks_that_came(self) -> Sequence[bool] | None:
        """For each key of a load that has ended early, whether its memory holds its chunk, verified. None: for none.

        To be called when nothing touches the memory any more.
        """
        theirs = self.theirs  # read once: another thread may let it go
        if self.kind != "get" or theirs is None:
            return None
        return [regions.is_filled for regions in theirs.regions]

    def let_go(self) -> None:
        """Nothing touches the engine's memory any more."""
        theirs, self.theirs = self.theirs, None
        if theirs is not None:
            theirs.release()
