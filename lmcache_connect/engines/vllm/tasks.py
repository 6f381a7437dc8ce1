"""What the scheduler asks of the store: `LookUp`, `Load`, `Store`. Each tells how it goes on when a job has ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .probe import Probe

if TYPE_CHECKING:
    from ..jobs import JobPort, JobResult
    from ..namespace import Namespace
    from .primary_memory import PrimaryMemory

_GROUP_BYTES: Final = 4


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


@dataclass(frozen=True, slots=True)
class Moved:
    """The answer to a `Load` or a `Store`."""

    job: int
    """vLLM's number of the transfer."""
    is_load: bool
    keys: tuple[bytes, ...]
    flags: tuple[bool, ...]
    """For each key: it was loaded, or the store has it now."""
    seconds: float
    """How long the port's jobs took."""
    moved: int
    """How many chunks crossed the network, whole."""


Answer = Found | Moved


class Task(ABC):
    """One thing asked. After `begin()` its job is with the port; `go_on()` gives the next task, or the answer."""

    @abstractmethod
    def begin(self, place: Place) -> int:
        """Submits the job, and returns the port's number of it."""

    @abstractmethod
    def go_on(self, result: JobResult) -> Task | Answer:
        """The job has ended. Nothing of it touches vLLM's memory any more."""

    @abstractmethod
    def failed(self) -> Answer:
        """The answer where no job could be submitted."""


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
    """Receives chunks straight into vLLM's memory."""

    job: int
    keys: tuple[bytes, ...]
    chunks: Sequence[int]

    def begin(self, place: Place) -> int:
        return place.port.submit_get(
            [place.name(key) for key in self.keys], [place.memory.row(int(chunk)) for chunk in self.chunks]
        )

    def go_on(self, result: JobResult) -> Answer:
        return Moved(self.job, True, self.keys, result.flags, result.seconds, sum(result.flags))

    def failed(self) -> Answer:
        return Moved(self.job, True, self.keys, (False,) * len(self.keys), 0.0, 0)


@dataclass(frozen=True, slots=True)
class Send(Task):
    """Sends chunks straight from vLLM's memory. `present` are the positions that the store has already."""

    job: int
    keys: tuple[bytes, ...]
    chunks: Sequence[int]
    present: frozenset[int] = frozenset()
    seconds: float = 0.0

    def begin(self, place: Place) -> int:
        wanted = self._wanted()
        return place.port.submit_put(
            [place.name(self.keys[at]) for at in wanted], [place.memory.row(int(self.chunks[at])) for at in wanted]
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
    again: frozenset[bytes] = frozenset()

    def begin(self, place: Place) -> int:
        return place.port.submit_exists([place.name(key) for key in self.keys])

    def go_on(self, result: JobResult) -> Task | Answer:
        present = frozenset(
            at
            for at, (key, there) in enumerate(zip(self.keys, result.flags, strict=True))
            if there and key not in self.again
        )
        if len(present) == len(self.keys):
            return Moved(self.job, False, self.keys, result.flags, result.seconds, 0)
        return Send(self.job, self.keys, self.chunks, present, result.seconds)

    def failed(self) -> Answer:
        return Send(self.job, self.keys, self.chunks).failed()
