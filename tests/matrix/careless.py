"""`Careless`: a connector of another package, which misbehaves as it is told. It keeps chunks in this process."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from lmcache_connect.metadata import ChunkMetadata

_kept: dict[str, tuple[ChunkMetadata, bytes]] = {}
_manner = ""
_let_go = threading.Event()


def behave(manner: str = "") -> None:
    """How every `Careless` acts from now on: "" as it should, and otherwise as the faults name it."""
    global _manner  # noqa: PLW0603  # the connector is made from a URL, so there is no object to tell
    _manner = manner
    if manner:
        _let_go.clear()
    else:
        _let_go.set()


class Careless:
    """Its methods are those of a connector. It derives from nothing."""

    def __init__(self, local_cpu_backend: Any) -> None:
        self._backend = local_cpu_backend

    async def exists(self, key: Any) -> bool:
        return key.to_string() in _kept

    async def get(self, key: Any) -> Any:
        if (odd := await _misbehave()) is not None:
            return odd
        if (found := _kept.get(key.to_string())) is None:
            return None
        metadata, payload = found
        chunk = await self._backend.allocate_chunk_async(metadata, timeout=0.05)
        chunk.byte_array[:] = payload
        return chunk

    async def put(self, key: Any, memory_obj: Any) -> None:
        await _misbehave()
        _kept[key.to_string()] = (memory_obj.metadata, bytes(memory_obj.byte_array))

    async def list(self) -> list[str]:
        return list(_kept)

    async def close(self) -> None:
        pass


class CarelessInThreads:
    """The same, in plain functions, which run in threads."""

    def __init__(self, local_cpu_backend: Any) -> None:
        self._backend = local_cpu_backend

    def exists(self, key: Any) -> bool:
        return key.to_string() in _kept

    def get(self, key: Any) -> Any:
        _block()
        if (found := _kept.get(key.to_string())) is None:
            return None
        metadata, payload = found
        chunk = self._backend.allocate(metadata.shapes, metadata.dtypes)
        if chunk is not None:
            chunk.byte_array[:] = payload
        return chunk

    def put(self, key: Any, memory_obj: Any) -> None:
        _block()
        _kept[key.to_string()] = (memory_obj.metadata, bytes(memory_obj.byte_array))

    def list(self) -> list[str]:
        return list(_kept)

    def close(self) -> None:
        pass


def _block() -> None:
    if _manner == "blocks":
        _let_go.wait(20)


async def _misbehave() -> Any:
    match _manner:
        case "raises":
            raise ZeroDivisionError("a mistake of the plug-in's")
        case "exits":
            raise SystemExit(3)
        case "answers nonsense":
            return "not a chunk"
        case "hangs":
            while not _let_go.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass  # it does not end when it is cancelled
    return None
