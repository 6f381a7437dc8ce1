"""Connectors that a soak must find out: each is right most of the time."""

from __future__ import annotations

import asyncio
from typing import Any

from lmcache_connect import LocalCPUBackend, MemoryObj, RemoteConnector

_HELD: dict[str, dict[str, bytes]] = {}


class Honest(RemoteConnector):
    """Keeps copies in a dictionary."""

    def __init__(self, *, local_cpu_backend: LocalCPUBackend, config: Any = None, **_: Any) -> None:
        super().__init__(config)
        self._backend = local_cpu_backend
        self.held = _HELD.setdefault(type(self).__name__, {})  # of every connector of this kind, as a store would
        self.calls = 0

    async def exists(self, key: Any) -> bool:
        return str(key) in self.held

    async def get(self, key: Any) -> MemoryObj | None:
        self.calls += 1
        return await self.answer(str(key))

    async def answer(self, key: str) -> MemoryObj | None:
        found = self.held.get(key)
        if found is None:
            return None
        obj = await self._backend.allocate_async((len(found),), "uint8")
        obj.byte_array[:] = found
        return obj

    async def put(self, key: Any, memory_obj: MemoryObj) -> None:
        self.held[str(key)] = bytes(memory_obj.byte_array)

    async def remove(self, key: Any) -> bool:
        return self.held.pop(str(key), None) is not None

    def support_remove(self) -> bool:
        return True

    async def list(self) -> list[str]:
        return list(self.held)

    async def close(self) -> None:
        pass


class Flips(Honest):
    """One get in twenty has a wrong bit."""

    async def answer(self, key: str) -> MemoryObj | None:
        obj = await super().answer(key)
        if obj is not None and self.calls % 20 == 0:
            obj.byte_array[700] ^= 1
        return obj


class MixesUp(Honest):
    """One get in twenty finds another key's value."""

    async def answer(self, key: str) -> MemoryObj | None:
        others = [other for other in self.held if other != key]
        return await super().answer(others[0] if others and self.calls % 20 == 0 else key)


class Stale(Honest):
    """Keeps the first value of each key for ever."""

    async def put(self, key: Any, memory_obj: MemoryObj) -> None:
        self.held.setdefault(str(key), bytes(memory_obj.byte_array))


class Drops(Honest):
    """Keeps nothing."""

    async def put(self, key: Any, memory_obj: MemoryObj) -> None:
        pass


class Raises(Honest):
    """Raises what no store raises."""

    async def answer(self, key: str) -> MemoryObj | None:
        if self.calls % 20 == 0:
            raise ZeroDivisionError("of its own")
        return await super().answer(key)


class Leaks(Honest):
    """Leaves a task behind with every get."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.left: list[asyncio.Task[None]] = []

    async def answer(self, key: str) -> MemoryObj | None:
        self.left.append(asyncio.ensure_future(asyncio.sleep(3600)))
        return await super().answer(key)

    async def close(self) -> None:
        LEFT.extend(self.left)


LEFT: list[asyncio.Task[None]] = []
