"""`WrittenKeys`: the keys that a demo has put into the store and not removed yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ...errors import CircuitOpenError, LMCacheConnectError
from ...keys import CacheEngineKey
from ...managed import ManagedConnector

CLEAN_UP_SECONDS: Final = 5.0
"""The most time that `clean_up` takes."""

_TRIES: Final = 3
_LATE_PUT_SECONDS: Final = 0.05
"""How long a server may still store a chunk whose put was cancelled."""


class WrittenKeys:
    """Remembers each key before it is put, because a put that fails may still store its chunk."""

    def __init__(self, connector: ManagedConnector, model_name: str) -> None:
        self._connector = connector
        self._model_name = model_name
        self._keys: dict[str, CacheEngineKey] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, key: CacheEngineKey) -> None:
        """To be called before the key is put."""
        self._keys[key.to_string()] = key

    async def remove(self, key: CacheEngineKey) -> bool:
        """Removes the key from the store. Returns whether it was there."""
        removed = await self._connector.remove(key)
        del self._keys[key.to_string()]
        return removed

    async def clean_up(self, on_warning: Callable[[str], None]) -> None:
        """Removes all keys after a failure or a cancellation. Calls `on_warning` where keys may be left."""
        keys = list(self._keys.values())
        try:
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                for _ in range(_TRIES):
                    try:
                        for key in keys:
                            await self._connector.remove(key)
                        # The server may still store a chunk whose put was cancelled, after the removal.
                        await asyncio.sleep(_LATE_PUT_SECONDS)
                        found = await self._connector.batched_exists(keys)
                    except CircuitOpenError as error:  # the store may answer again when the breaker lets a call through
                        await asyncio.sleep(error.retry_in)
                        continue
                    keys = [key for key, exists in zip(keys, found, strict=True) if exists]
                    if not keys:
                        return
            on_warning(f"{len(keys)} keys of the model {self._model_name} may still be in the store")
        except (LMCacheConnectError, TimeoutError):
            on_warning(
                f"up to {len(keys)} keys of the model {self._model_name} are left in the store, which does not answer"
            )
