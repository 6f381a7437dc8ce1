"""A record that is not what the caller's memory is for costs its own key alone, and is counted by its reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
import pytest_asyncio

from lmcache_connect import ChunkMetadata, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import FaultyS3Server, ValkeyServer

from .conftest import CONFIG
from .field import Field, evenly
from .stock import MIB

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

SIZE: Final = 100_000
KEYS: Final = ["good", "bad", "fine"]


class Stored:
    """A connector, and the values that its store holds, by the keys of their chunks."""

    def __init__(self, connector: ManagedConnector, edit: Callable[[str, Callable[[bytes], bytes]], None]) -> None:
        self.connector = connector
        self.edit = edit

    def misses(self) -> dict[str, int]:
        return dict(self.connector.statistics()["batched_get_into"].misses)


@pytest_asyncio.fixture(params=["loop", "thread", "s3-loop", "s3-thread"])
async def stored(request: pytest.FixtureRequest) -> AsyncIterator[Stored]:
    kind = request.param
    with LocalCPUBackend(MIB) as backend:
        if kind.startswith("s3"):
            with FaultyS3Server() as s3:

                def edit_object(key: str, change: Callable[[bytes], bytes]) -> None:
                    [name] = [name for name in s3.objects if key in name]
                    s3.objects[name] = change(s3.objects[name])

                url = s3.url(io=kind[3:])
                async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
                    yield Stored(manager.create_connector(), edit_object)
            return
        server: ValkeyServer = request.getfixturevalue("valkey_server")
        server.flush()
        with server.client() as client:

            def edit_value(key: str, change: Callable[[bytes], bytes]) -> None:
                names: Any = client.keys(f"*{key}*")
                client.set(names[0], change(client.get(names[0])))

            url = server.url(options={"io": kind})
            async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
                yield Stored(manager.create_connector(), edit_value)
        server.flush()


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda value: value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


DAMAGE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "corrupt:checksum": flipped(SIZE // 2),
    "corrupt:header": flipped(20),
    "corrupt:length": lambda value: value[:-1],
    "corrupt:length ": lambda value: value + b"x",
}


@pytest.mark.parametrize("reason", DAMAGE)
async def test_a_damaged_record_is_false_for_its_key_alone(stored: Stored, reason: str) -> None:
    memory = Field([evenly(SIZE, 64)] * len(KEYS))
    contents = memory.fill(1)
    assert await stored.connector.batched_put_from(KEYS, memory.buffers) == [True, True, True]
    stored.edit("bad", DAMAGE[reason])
    memory.mark()
    assert await stored.connector.batched_get_into(KEYS, memory.buffers) == [True, False, True]
    assert [memory.contents()[at] for at in (0, 2)] == [contents[at] for at in (0, 2)]
    memory.check_gaps()
    assert stored.misses() == {reason.strip(): 1}


async def test_the_record_of_another_key_is_false_for_its_key_alone(stored: Stored) -> None:
    memory = Field([evenly(SIZE, 3)] * len(KEYS))
    contents = memory.fill(2)
    assert await stored.connector.batched_put_from(KEYS, memory.buffers) == [True, True, True]
    taken: list[bytes] = []
    stored.edit("good", lambda value: taken.append(value) or value)  # type: ignore[func-returns-value]
    stored.edit("bad", lambda _: taken[0])
    memory.mark()
    assert await stored.connector.batched_get_into(KEYS, memory.buffers) == [True, False, True]
    assert [memory.contents()[at] for at in (0, 2)] == [contents[at] for at in (0, 2)]
    memory.check_gaps()
    assert stored.misses() == {"corrupt:key": 1}


@pytest.mark.parametrize("size", [SIZE, 3 * MIB, 9 * MIB])
async def test_a_chunk_of_another_length_or_metadata_is_false_for_its_key_alone(stored: Stored, size: int) -> None:
    ours = Field([evenly(size, 5)] * len(KEYS))
    contents = ours.fill(3)
    assert await stored.connector.batched_put_from(KEYS, ours.buffers) == [True, True, True]
    for longer in (1, -1):
        memory = Field([evenly(size, 5), evenly(size + longer, 7), evenly(size, 2)])
        memory.mark()
        assert await stored.connector.batched_get_into(KEYS, memory.buffers) == [True, False, True]
        assert [memory.contents()[at] for at in (0, 2)] == [contents[at] for at in (0, 2)]
        memory.check_gaps()
    as_bytes = ChunkMetadata.of((size,), "uint8")
    wanted = [as_bytes, ChunkMetadata.of((size,), "int8"), None]
    assert await stored.connector.batched_get_into(KEYS, ours.buffers, wanted) == [True, False, True]
    assert stored.misses() == {"mismatch": 3}
    assert await stored.connector.batched_get_into(KEYS, ours.buffers, as_bytes) == [True, True, True]
    assert ours.contents() == contents


@pytest.mark.parametrize("io", ["loop", "thread"])
@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_damaged_piece_of_a_striped_chunk_is_false_for_its_key_alone(
    valkey_server: ValkeyServer, io: str, is_gone: bool
) -> None:
    valkey_server.flush()
    memory = Field([evenly(9 * MIB, 300)] * len(KEYS))
    contents = memory.fill(4)
    with LocalCPUBackend(MIB) as backend, valkey_server.client() as client:
        url = valkey_server.url(options={"io": io})
        async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
            connector = manager.create_connector()
            assert await connector.batched_put_from(KEYS, memory.buffers) == [True, True, True]
            names: Any = client.keys("*bad*")
            piece: Any = client.hget(names[0], "4")
            if is_gone:
                client.hdel(names[0], "4")
            else:
                client.hset(names[0], "4", flipped(len(piece) // 2)(piece))
            memory.mark()
            assert await connector.batched_get_into(KEYS, memory.buffers) == [True, False, True]
            assert [memory.contents()[at] for at in (0, 2)] == [contents[at] for at in (0, 2)]
            memory.check_gaps()
            reason = "corrupt:piece" if is_gone else "corrupt:checksum"
            assert connector.statistics()["batched_get_into"].misses == {reason: 1}
            assert await connector.batched_exists(KEYS) == [True, False, True]  # a second look has removed it
    valkey_server.flush()
