"""`OwnKeys`: the keys that a command writes into a store, apart from all others, and removes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from ...errors import CircuitOpenError, LMCacheConnectError
from ...keys import CacheEngineKey
from ...managed import ManagedConnector

_CLEAN_UP_SECONDS: Final = 5.0
_TRIES: Final = 5
_LATE_PUT_SECONDS: Final = 0.05
"""How long a server may still store a chunk whose put was cancelled."""

_AT_A_TIME: Final = 500


class OwnKeys:
    """Keys under a random model name. Each is remembered when it is asked for, until it is removed."""

    def __init__(self, command: str) -> None:
        """`command` names the program's command in the keys: `lmcache-connect-<command>-<random>`."""
        self.model_name: Final = f"lmcache-connect-{command}-{secrets.token_hex(8)}"
        """What every key begins with."""
        self._written: dict[int, CacheEngineKey] = {}

    def __len__(self) -> int:
        return len(self._written)

    def key(self, number: int) -> CacheEngineKey:
        """The key of a chunk that is written from now on."""
        key = self._written.get(number)
        if key is None:
            key = self._written[number] = self.absent(number)
        return key

    def absent(self, number: int) -> CacheEngineKey:
        """A key that is not written."""
        return CacheEngineKey(self.model_name, 1, 0, number, "bfloat16")

    async def remove(self, connector: ManagedConnector) -> None:
        """Removes all keys, some hundreds with each call. Raises what the connector raises."""
        keys = list(self._written.values())
        for start in range(0, len(keys), _AT_A_TIME):
            await connector.batched_remove(keys[start : start + _AT_A_TIME])
        self._written.clear()

    async def clean_up(self, connector: ManagedConnector, on_warning: Callable[[str], None]) -> None:
        """Removes all keys after a failure or a cancellation, within five seconds. `on_warning` hears of what is left.

        It looks until none is there: the server may store a chunk whose put was cancelled a moment later.
        """
        keys: Sequence[CacheEngineKey] = list(self._written.values())
        if not keys:
            return
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                for _ in range(_TRIES):
                    try:
                        keys = await _left_of(connector, keys)
                    except CircuitOpenError as error:  # it may answer when the breaker lets a call through
                        await asyncio.sleep(error.retry_in)
                        continue
                    if not keys:
                        self._written.clear()
                        return
            on_warning(f"{len(keys)} keys that begin with {self.model_name} may still be in the store")
        except (LMCacheConnectError, TimeoutError):
            on_warning(f"up to {len(keys)} keys that begin with {self.model_name} are left in the store")


async def _left_of(connector: ManagedConnector, keys: Sequence[CacheEngineKey]) -> Sequence[CacheEngineKey]:
    """Removes the keys that are there in a moment. Returns them: they may come again."""
    await asyncio.sleep(_LATE_PUT_SECONDS)
    left: list[CacheEngineKey] = []
    for start in range(0, len(keys), _AT_A_TIME):
        some = keys[start : start + _AT_A_TIME]
        found = await connector.batched_exists(some)
        there = [key for key, is_there in zip(some, found, strict=True) if is_there]
        if there:
            await connector.batched_remove(there)
        left += there
    return left
