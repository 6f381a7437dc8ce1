"""`One`: a call, and when it has returned the next one."""

from __future__ import annotations

import statistics
from typing import Final

from ..clients import ASYNC
from .work import SMALL, Clock, Work, WrongDataError, freeze_heap, names, payload, verify, verify_found

CALLS: Final = 200
"""Calls in a round. Short, so that all sides meet the same moments of a shared machine."""


class One(Work):
    """The median of calls that follow each other, each timed by itself, and their CPU time on average."""

    async def open(self) -> None:
        self._client = client = ASYNC[self.client_name]()
        self._nbytes = self.case.nbytes or SMALL
        await client.open(self.url, 64 * (self._nbytes + 4096), self.stack)
        [self._key] = names("one", 1)
        self._payload = payload(self._key, self._nbytes)
        await self._put(Clock())
        freeze_heap(self.stack)

    async def round(self, number: int) -> dict[str, float]:
        step = {"exists": self._exists, "get": self._get, "put": self._put}[self.case.operation]
        if self.case.operation == "put":
            self._payload = payload(number, self._nbytes)
        walls, cpu = [], 0.0
        for _ in range(CALLS):
            clock = Clock()
            await step(clock)
            walls.append(clock.wall)
            cpu += clock.cpu
        await self._get(Clock())
        return {"us": statistics.median(walls) * 1e6, "cpu us": cpu / CALLS * 1e6}

    async def _exists(self, clock: Clock) -> None:
        with clock.running():
            found = await self._client.exists(self._key)
        verify_found(self._client, [found], [True])

    async def _get(self, clock: Clock) -> None:
        with clock.running():
            value = await self._client.get(self._key)
        if value is None:
            raise WrongDataError(f"{self._client.name}: no value")
        verify(self._client, [value], [self._payload])

    async def _put(self, clock: Clock) -> None:
        staged = self._client.stage(self._payload)
        with clock.running():
            await self._client.put(self._key, staged)
        self._client.release(staged)
