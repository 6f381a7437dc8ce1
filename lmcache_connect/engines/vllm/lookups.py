"""`Lookups`: which keys the store has, asked once a step for all requests, each answer bounded in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from .probe import Probe


class Lookups:
    """What vLLM's scheduler asks and is told about keys. It never waits, and one thread at a time uses it.

    A key is asked for once, for as long as any request wants it. Without an answer within `deadline` seconds it counts
    as missing, so that the request is computed. A key whose load failed stays missing for the requests that asked:
    the record that could not be loaded would be found again, in a circle.
    """

    def __init__(self, deadline: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._deadline = deadline
        self._clock = clock
        self._probes: dict[bytes, Probe] = {}
        self._of_request: dict[str, dict[bytes, Probe]] = {}
        self._now = clock()
        self._batch: list[Probe] = []
        self.expired = 0
        """How many keys got no answer in time."""

    def __len__(self) -> int:
        return len(self._probes)

    def begin_step(self) -> None:
        """Reads the clock, once for all answers of a step: there may be thousands."""
        self._now = self._clock()

    def answer(self, key: bytes, request: str) -> bool | None:
        """Returns whether the store has the key; None: ask again in the next step."""
        asked = self._of_request.get(request)
        if asked is None:
            asked = self._of_request[request] = {}
        probe = asked.get(key)
        if probe is None:
            probe = asked[key] = self._wanted(key)
        if probe.found is None and self._now >= probe.due:
            probe.found = False
            self.expired += 1
        return probe.found

    def _wanted(self, key: bytes) -> Probe:
        """The probe of a key that one more request asks for."""
        probe = self._probes.get(key)
        if probe is None:
            probe = self._probes[key] = Probe(key, self._now + self._deadline)
            self._batch.append(probe)
        probe.users += 1
        return probe

    def take_batch(self) -> list[Probe]:
        """Returns the keys that are new since the last call and still wanted. The store must be asked for them now."""
        batch = [probe for probe in self._batch if probe.users]
        self._batch = []
        for probe in batch:
            probe.is_asked = True
        return batch

    def resolve(self, probes: Sequence[Probe], flags: Sequence[bool]) -> None:
        """Takes the store's answers. One that comes after the deadline still counts for the next question."""
        for probe, flag in zip(probes, flags, strict=True):
            probe.is_asked = False
            if not probe.failed:
                probe.found = flag
            if not probe.users:
                self._drop(probe)

    def mark_failed(self, keys: Iterable[bytes]) -> None:
        """Has the keys count as missing for the requests that ask for them now: loading them has failed."""
        for key in keys:
            probe = self._probes.get(key)
            if probe is not None and probe.users:
                probe.found = False
                probe.failed = True

    def failed_among(self, keys: Collection[bytes]) -> frozenset[bytes]:
        """Returns those of the keys whose load has failed for a request that still runs."""
        probes = self._probes
        return frozenset(key for key in keys if (probe := probes.get(key)) is not None and probe.failed)

    def forget(self, request: str) -> None:
        """The request has ended. Keys that nobody else wants are forgotten, at the latest with their answer."""
        for probe in self._of_request.pop(request, {}).values():
            probe.users -= 1
            if not probe.users and not probe.is_asked:
                self._drop(probe)

    def _drop(self, probe: Probe) -> None:
        if self._probes.get(probe.key) is probe:
            del self._probes[probe.key]
