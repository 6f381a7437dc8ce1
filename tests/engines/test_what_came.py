"""`tells_what_came`: an author's connector says which chunks a load that failed had brought, and is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorContext,
    MemoryObj,
    RemoteConnector,
    StoreUnavailableError,
    register_adapter,
)
from lmcache_connect.contract import CallerMemory

from .conftest import OpenPort

CHUNK: Final = b"chunk of an author's store"


class HalfConnector(RemoteConnector):
    """Has every chunk. After the first half of a batch, the store goes."""

    async def exists(self, key: Any) -> bool:
        return True

    async def get(self, key: Any) -> MemoryObj | None:
        raise StoreUnavailableError("half", "it has gone")

    async def put(self, key: Any, memory_obj: MemoryObj) -> None:
        raise NotImplementedError

    async def list(self) -> list[str]:
        return []

    async def close(self) -> None:
        pass

    async def batched_get_into(self, keys: Sequence[Any], buffers: Sequence[Any], metadata: Any = None) -> Any:
        with CallerMemory.of(keys, buffers, metadata, writable=True) as memory:
            for regions in memory.regions[: len(memory.keys) // 2]:
                regions.write(0, CHUNK)
                regions.is_filled = True  # whole, verified, and left alone from here on
            raise StoreUnavailableError("half", "it has gone")


class TellingConnector(HalfConnector):
    """Says which chunks have come."""

    tells_what_came = True


class HalfAdapter(ConnectorAdapter):
    schema = "half-told://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return TellingConnector() if context.remote_url.host == "telling" else HalfConnector()


register_adapter(HalfAdapter, replace=True)


def loaded(open_port: OpenPort, url: str, **settings: Any) -> tuple[list[bool], list[bytes]]:
    """The flags of a load of four chunks that has failed, and what lies in the memory of those that are True."""
    port = open_port(url, retries=0, deadline=5, **settings)
    buffers = [bytearray(len(CHUNK)) for _ in range(4)]
    result = port.wait(port.submit_get(["a", "b", "c", "d"], buffers))
    assert result is not None
    assert result.reason == "StoreUnavailableError"
    return list(result.flags), [bytes(buffer) for buffer, flag in zip(buffers, result.flags, strict=True) if flag]


def test_chunks_that_a_connector_says_have_come_are_used_although_its_call_has_failed(open_port: OpenPort) -> None:
    flags, chunks = loaded(open_port, "half-told://telling", trusted_modules=("*",))
    assert flags == [True, True, False, False]
    assert chunks == [CHUNK, CHUNK]


def test_a_connector_that_does_not_vouch_for_what_came_has_brought_nothing(open_port: OpenPort) -> None:
    assert loaded(open_port, "half-told://silent", trusted_modules=("*",)) == ([False] * 4, [])


def test_a_connector_that_is_not_trusted_is_given_copies_and_has_brought_nothing(open_port: OpenPort) -> None:
    assert loaded(open_port, "half-told://telling") == ([False] * 4, [])
