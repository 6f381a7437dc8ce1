"""`Aftermath`: what must hold when nobody writes any more, and that the store can be emptied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.record.names import SEPARATOR
from lmcache_connect.testing import StampedValue, WrongValueError

from .caller import SETTINGS
from .crew import UNHARMED
from .journal import Journal
from .servers import StoreServer

_GRACE: Final = 62.0
"""Seconds after which an emptied store must be empty. What a killed writer left expires within a minute."""


class Aftermath:
    """Looks at the servers after a storm: existence, values, listings, and what stays after everything was removed."""

    def __init__(self, journal: Journal, urls: dict[str, str], grace: bool, say: Callable[[str], None]) -> None:
        self._journal = journal
        self._urls = urls
        self._grace = grace
        self._say = say

    async def run(self, calm: StoreServer, tight: StoreServer, flipped: StoreServer, harm: int) -> None:
        """Looks at all servers. `harm` is how many bytes were changed or lost on their way to `flipped`."""
        with tight.client() as client:
            await asyncio.to_thread(client.config_set, "maxmemory", "0")  # so that reading evicts nothing
        begun = time.monotonic()
        with LocalCPUBackend(64 << 20) as backend:
            async with ConnectorManager(local_cpu_backend=backend, config=SETTINGS) as manager:
                for store in ("calm", UNHARMED, "tight"):
                    connector = await manager.open_connector(self._urls[store])
                    await self._agree(store, connector)
                    await self._remove(store, connector)
                brief = await manager.open_connector(self._urls["brief"])
                await self._remove("brief", brief)
                direct = await manager.open_connector(flipped.url())
                await direct.batched_remove(await direct.list())
        await self._be_empty("calm", calm, begun, 0)
        await self._be_empty("tight", tight, begun, 0)
        await self._be_empty("flipped", flipped, begun, harm)

    async def empty(self, store: str, server: StoreServer) -> None:
        """Removes everything from one server, whose records may be damaged, and looks whether something stays."""
        begun = time.monotonic()
        with LocalCPUBackend(1 << 20) as backend:
            async with ConnectorManager(local_cpu_backend=backend, config=SETTINGS) as manager:
                await self._remove(store, await manager.open_connector(self._urls[store]))
        await self._be_empty(store, server, begun, 0)

    async def _agree(self, store: str, connector: ManagedConnector) -> None:
        """Whether listing, `exists` and `get` say the same of every key."""
        names = await connector.list()
        if len(set(names)) != len(names):
            self._journal.violate(f"{store}: the listing has a key twice")
        for key in names:
            if not await connector.exists(key):
                self._journal.violate(f"{store} {key}: listed, but exists is False")
            found = await connector.get(key)
            if found is None:
                self._journal.violate(f"{store} {key}: listed, but get is a miss, with no writer at work")
                continue
            with found:
                try:
                    await StampedValue.read(key, found.byte_array)
                except WrongValueError as error:
                    self._journal.violate(f"{store} {key}: WRONG VALUE: {error}")
            del found
        self._journal.count(f"{store} chunks at the end", len(names))

    async def _remove(self, store: str, connector: ManagedConnector) -> None:
        names = await connector.list()
        gone = await connector.batched_remove(names)
        if not all(gone):
            self._journal.violate(f"{store}: {gone.count(False)} of {len(names)} keys could not be removed")
        if left := [name for name in await connector.list() if store != "brief"]:
            self._journal.violate(f"{store}: {left[:5]} are listed after they were removed")

    async def _be_empty(self, store: str, server: StoreServer, begun: float, most: int) -> None:
        """Whether a server has at most `most` keys that last, at once, and none else after the grace."""
        with server.client() as client:
            while True:
                left = await asyncio.to_thread(_left, client)
                self._journal.measure(f"temporary keys after a storm ({store})", len(left))
                lasting = [name for name, ttl in left.items() if not 0 < ttl <= 60_000 or SEPARATOR not in name]
                if len(lasting) > most:
                    self._journal.violate(f"{store}: {len(lasting)} keys stay after all were removed: {lasting[:3]}")
                    return
                if not self._grace or len(left) == len(lasting):
                    return
                if time.monotonic() - begun > _GRACE:
                    self._journal.violate(f"{store}: {len(left)} keys are left after {_GRACE:g} s: {list(left)[:3]}")
                    return
                self._say(f"{store}: waiting for {len(left) - len(lasting)} temporary keys to expire")
                await asyncio.sleep(5)


def _left(client: Any) -> dict[str, int]:
    """The keys of a server, and for how many milliseconds they live: -1 is for ever."""
    found = {}
    for name in client.scan_iter(count=1000):
        if (ttl := client.pttl(name)) != -2:
            found[name.decode("utf-8", "backslashreplace")] = ttl
    return found
