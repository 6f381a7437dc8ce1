"""Connectors that do not end, and connectors that raise what nobody expects."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from lmcache_connect import MemoryObj, key_string

from ..gate import OPEN
from .duck import Duck
from .minimal import MinimalConnector


async def stay() -> None:
    """Goes on until the test opens the gate, however often it is cancelled."""
    while not OPEN.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass


class Stubborn(MinimalConnector):
    """Its `get`, `put` and `close` swallow cancellation."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.seen: list[bytes] = []

    async def get(self, key: Any) -> MemoryObj | None:
        await stay()
        return await super().get(key)

    async def put(self, key: Any, memory_obj: MemoryObj) -> None:
        await stay()
        self.seen.append(bytes(memory_obj.byte_array))

    async def close(self) -> None:
        await stay()


class Blocking(Duck):
    """Its plain `put` and `close` block their threads."""

    def put(self, key: Any, memory_obj: Any) -> Any:
        OPEN.wait(60)

    def close(self) -> Any:
        OPEN.wait(60)


class Raising(MinimalConnector):
    """Raises what `raised` holds, in every method."""

    raised: BaseException = SystemExit(3)

    async def exists(self, key: Any) -> bool:
        raise self.raised

    async def get(self, key: Any) -> MemoryObj | None:
        raise self.raised

    async def put(self, key: Any, memory_obj: MemoryObj) -> None:
        raise self.raised

    async def list(self) -> list[str]:
        raise self.raised

    def support_ping(self) -> bool:
        raise self.raised


class RaisingAtItsEnd(Raising):
    async def close(self) -> None:
        raise self.raised


class PlainRaising(Duck):
    """The same, in plain functions."""

    def exists(self, key: Any) -> Any:
        raise Raising.raised


class Odd:
    """An answer that raises however it is looked at."""

    def __bool__(self) -> bool:
        raise Raising.raised

    def __len__(self) -> int:
        raise Raising.raised

    def __iter__(self) -> Any:
        raise Raising.raised

    def _class(self) -> Any:
        raise Raising.raised

    __class__ = property(_class)


class OddAnswers(MinimalConnector):
    async def exists(self, key: Any) -> Any:
        return Odd()

    async def get(self, key: Any) -> Any:
        return Odd()

    async def batched_get(self, keys: Any) -> Any:
        return Odd()

    async def list(self) -> Any:
        return Odd()


class OddDuckAnswers(Duck):
    async def exists(self, key: Any) -> Any:
        return Odd()

    async def get(self, key: Any) -> Any:
        return Odd()

    async def list(self) -> Any:
        return Odd()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("support_"):
            raise Raising.raised
        raise AttributeError(name)


class OddMeta(type):
    def __getattr__(cls, name: str) -> Any:
        raise SystemExit(4)


class OddClass(metaclass=OddMeta):
    async def exists(self, key: Any) -> bool:
        return False


class HidingMeta(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class Hidden(Duck, metaclass=HidingMeta):
    """Its metaclass hides what its constructor asks for."""


class WaitsForTheLoop(Duck):
    """Its constructor runs a coroutine on the loop that it is given, as LMCache permits."""

    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        super().__init__(loop, local_cpu_backend, config)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(30)


class ConnectsSlowly(Duck):
    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        super().__init__(loop, local_cpu_backend, config)
        time.sleep(0.3)


class Named(MinimalConnector):
    async def exists(self, key: Any) -> bool:
        return bool(key_string(key))
