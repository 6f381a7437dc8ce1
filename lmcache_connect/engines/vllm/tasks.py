"""What the scheduler asks of the store: `LookUp`, `Load`, `Store`. Each tells how it goes on when a job has ended."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .load_parts import LoadParts
from .moved import Moved
from .probe import Probe

if TYPE_CHECKING:
    from ..jobs import JobPort, JobResult
    from ..namespace import Namespace
    from .primary_memory import PrimaryMemory

_GROUP_BYTES: Final = 4
_SHORTEST: Final = 0.001


def seconds_until(due: float) -> float:
    """The deadline of a job that must be over at `due`, in seconds. One that comes too late has a millisecond."""
    return max(_SHORTEST, due - time.monotonic())


@dataclass(frozen=True, slots=True)
class Place:
    """Where tasks work: the port of jobs, the names of keys, and vLLM's memory."""

    port: JobPort
    namespace: Namespace
    memory: PrimaryMemory

    def name(self, key: bytes) -> str:
        """Returns the store's name for a key of vLLM's: the block's hash in hexadecimal, and its group."""
        group = int.from_bytes(key[-_GROUP_BYTES:], "big")
        return self.namespace.key(f"{key[:-_GROUP_BYTES].hex()}.{group}")


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a `LookUp`: for each key, whether the store has it."""

    probes: Sequence[Probe]
    flags: Sequence[bool]


Answer = Found | Moved


class Task(ABC):
    """One thing asked. After `begin()` its job is with the port; `go_on()` gives the next task, or the answer."""

    @abstractmethod
    def begin(self, place: Place) -> int:
        """Submits the job, and returns the port's number of it."""

    @abstractmethod
    def go_on(self, result: JobResult) -> Task | Answer | None:
        """The job has ended: nothing of it touches vLLM's memory any more. None: other jobs have to end, too."""

    @abstractmethod
    def failed(self) -> Answer | None:
        """The answer where no job could be submitted. None: other jobs have to end, too."""


@dataclass(frozen=True, slots=True)
class LookUp(Task):
    """Asks which keys the store has."""

    probes: Sequence[Probe]

    def begin(self, place: Place) -> int:
        return place.port.submit_exists([place.name(probe.key) for probe in self.probes])

    def go_on(self, result: JobResult) -> Answer:
        return Found(self.probes, result.flags)

    def failed(self) -> Answer:
        return Found(self.probes, (False,) * len(self.probes))


@dataclass(frozen=True, slots=True)
class Load(Task):
    """Receives chunks straight into vLLM's memory: a part of one load, and then the next that is left."""

    parts: LoadParts
    part: range

    def begin(self, place: Place) -> int:
        keys, chunks, part = self.parts.keys, self.parts.chunks, self.part
        return place.port.submit_get(
            [place.name(keys[at]) for at in part],
            [place.memory.row(int(chunks[at])) for at in part],
            deadline=seconds_until(self.parts.due),
        )

    def go_on(self, result: JobResult) -> Task | Answer | None:
        answer = self.parts.arrived(self.part, result.flags, result.seconds)
        following = self.parts.take()
        return answer if following is None else Load(self.parts, following)

    def failed(self) -> Answer | None:
        part: range | None = self.part
        answer = None
        while part is not None:  # the parts that are left would fail as well
            answer = self.parts.arrived(part, (False,) * len(part), 0.0)
            part = self.parts.take()
        return answer


@dataclass(frozen=True, slots=True)
class Send(Task):
    """Sends chunks straight from vLLM's memory. `present` are the positions that the store has already."""

    job: int
    keys: tuple[bytes, ...]
    chunks: Sequence[int]
    due: float
    present: frozenset[int] = frozenset()
    seconds: float = 0.0

    def begin(self, place: Place) -> int:
        wanted = self._wanted()
        return place.port.submit_put(
            [place.name(self.keys[at]) for at in wanted],
            [place.memory.row(int(self.chunks[at])) for at in wanted],
            deadline=seconds_until(self.due),
        )

    def go_on(self, result: JobResult) -> Answer:
        return self._answer(result.flags, result.seconds)

    def failed(self) -> Answer:
        return self._answer((False,) * (len(self.keys) - len(self.present)), 0.0)

    def _wanted(self) -> list[int]:
        return [at for at in range(len(self.keys)) if at not in self.present]

    def _answer(self, stored: Sequence[bool], seconds: float) -> Answer:
        flags = [True] * len(self.keys)
        for at, flag in zip(self._wanted(), stored, strict=True):
            flags[at] = flag
        return Moved(self.job, False, self.keys, tuple(flags), self.seconds + seconds, sum(stored))


@dataclass(frozen=True, slots=True)
class Store(Task):
    """Sends the chunks that the store does not have. `again` are keys that it may have, but that cannot be loaded."""

    job: int
    keys: tuple[bytes, ...]
    chunks: Sequence[int]
    due: float
    again: frozenset[bytes] = frozenset()

    def begin(self, place: Place) -> int:
        return place.port.submit_exists([place.name(key) for key in self.keys], deadline=seconds_until(self.due))

    def go_on(self, result: JobResult) -> Task | Answer:
        present = frozenset(
            at
            for at, (key, there) in enumerate(zip(self.keys, result.flags, strict=True))
            if there and key not in self.again
        )
        if len(present) == len(self.keys):
            return Moved(self.job, False, self.keys, result.flags, result.seconds, 0)
        return Send(self.job, self.keys, self.chunks, self.due, present, result.seconds)

    def failed(self) -> Answer:
        return Send(self.job, self.keys, self.chunks, self.due).failed()
