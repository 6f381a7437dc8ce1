"""`Work`: rounds of one case with one client. Every result is checked, outside the measured time."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from random import Random
from typing import Any, Final

from ..case import KIB, Case
from ..clients import Client

BLOCK: Final = 64 * KIB
SMALL: Final = 64
"""Bytes of the values that are looked up."""


class WrongDataError(Exception):
    """A client returned other bytes than were put, or found other keys."""


class Clock:
    """Wall and CPU seconds of the blocks that were timed, together. CPU seconds are those of this process, all
    threads: the client's, not the server's."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the block's time."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu

    def per_call(self, calls: int) -> dict[str, float]:
        """Microseconds of one call."""
        return {"us": self.wall / calls * 1e6, "cpu us": self.cpu / calls * 1e6}


class Work(ABC):
    """One case, opened, measured in rounds, and closed, all in one task."""

    def __init__(self, case: Case, client: str, url: str) -> None:
        self.case = case
        self.client_name = client
        self.url = url
        self.stack = AsyncExitStack()

    @abstractmethod
    async def open(self) -> None:
        """Connects, and stores what the rounds read. `stack` has what ends with it."""

    @abstractmethod
    async def round(self, number: int) -> dict[str, float]:
        """One round: its figures by name."""


def freeze_heap(stack: AsyncExitStack) -> None:
    """Leaves what exists out of further garbage collections until `stack` ends.

    A server does so after its start: a full collection of the imported modules takes 20 to 30 ms.
    """
    gc.collect()
    gc.freeze()
    stack.callback(gc.unfreeze)


def names(model: str, count: int) -> list[str]:
    """Keys as an engine has them."""
    return [f"{model}@1@0@{index:x}@uint8" for index in range(count)]


def payload(seed: object, nbytes: int) -> bytes:
    """Bytes that no other seed gives."""
    block = Random(str(seed)).randbytes(min(BLOCK, nbytes))
    return block * (nbytes // len(block))


def verify(client: Client, values: Iterable[Any], expected: Iterable[bytes]) -> None:
    """Compares every byte, and releases the values.

    Raises:
        WrongDataError: a value is not what was put.
    """
    for index, (value, wanted) in enumerate(zip(values, expected, strict=True)):
        if value is None or client.received(value) != wanted:
            raise WrongDataError(f"{client.name}: value {index} is not what was put")
        client.release(value)


def verify_found(client: Client, found: Iterable[Any], expected: Iterable[bool]) -> None:
    """Compares the answers of look-ups.

    Raises:
        WrongDataError: one of them is wrong.
    """
    for index, (there, wanted) in enumerate(zip(found, expected, strict=True)):
        if bool(there) is not wanted:
            raise WrongDataError(f"{client.name}: look-up {index} gave {there!r}, expected {wanted}")
