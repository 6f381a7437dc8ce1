"""A store whose transfers wait until a test lets them go on: for the order of jobs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Final

from lmcache_connect import ConnectorAdapter, ConnectorContext, MemoryObj, RemoteConnector, register_adapter
from lmcache_connect.engines.jobs import JobPort


class Gates:
    """What the transfers of one URL have begun, in order, and what lets them go on."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._open: set[str] = set()
        self.fails_with: BaseException | None = None

    def begin(self, key: str) -> None:
        with self._changed:
            self.begun.append(key)
            self._changed.notify_all()

    def wait_begun(self, *keys: str) -> bool:
        """Waits until transfers of these keys have begun."""
        with self._changed:
            return self._changed.wait_for(lambda: set(keys) <= set(self.begun), 10)

    def let_go_on(self, *keys: str) -> None:
        self._open.update(keys)

    async def passes(self, key: str) -> None:
        self.begin(key)
        while not self._open & {key, "*"}:
            await asyncio.sleep(0.001)
        if self.fails_with is not None:
            raise self.fails_with


GATES: Final[dict[str, Gates]] = {}


class GatedConnector(RemoteConnector):
    """Transfers that wait at the gates. Nothing is stored."""

    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self._gates = gates

    async def exists(self, key: Any) -> bool:
        return True

    async def get(self, key: Any) -> MemoryObj | None:
        return None

    async def put(self, key: Any, memory_obj: MemoryObj) -> None:
        raise NotImplementedError

    async def list(self) -> list[str]:
        return []

    async def close(self) -> None:
        pass

    async def batched_get_into(self, keys: Sequence[Any], buffers: Sequence[Any], metadata: Any = None) -> Any:
        await self._gates.passes(keys[0])
        return [True] * len(keys)

    async def batched_put_from(self, keys: Sequence[Any], buffers: Sequence[Any], metadata: Any = None) -> Any:
        await self._gates.passes(keys[0])
        return [True] * len(keys)


class GatedAdapter(ConnectorAdapter):
    """`gated://name`, with the gates of that name."""

    schema = "gated://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return GatedConnector(GATES[context.remote_url.host or ""])


register_adapter(GatedAdapter, replace=True)


def caught_up(port: JobPort) -> None:
    """Returns when the loop has done what was posted to it before."""
    done = threading.Event()
    loop = port.manager.owner.loop
    loop.call_soon_threadsafe(lambda: loop.call_soon(lambda: loop.call_soon(done.set)))
    assert done.wait(10)
