"""The user of the server that `docs/operating.md` gives can do everything, for its own prefix alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.oversight import clear
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer

from .chunks import chunk, holds

pytestmark = pytest.mark.asyncio

OPERATING: Final = Path(__file__).parents[3] / "docs" / "operating.md"
CONFIG: Final = ConnectorConfig.load(operation_timeout=5, retries=0)
SIZES: Final = {"small": 4096, "large": 6 << 20}


@pytest.fixture
def url(valkey_server: ValkeyServer) -> Iterator[str]:
    """The URL of the documented user."""
    found = re.search(r"^ACL SETUSER kv (.*)$", OPERATING.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    valkey_server.flush()
    with valkey_server.client() as client:
        client.execute_command("ACL", "SETUSER", "kv", *found[1].split())
        yield f"redis://kv:password@{valkey_server.host}:{valkey_server.port}"
        client.execute_command("ACL", "DELUSER", "kv")


async def test_the_documented_user_can_do_every_operation(
    url: str, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(f"{url}?prefix=tenant", None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for key, nbytes in SIZES.items():
            with chunk(local_cpu_backend, key, nbytes) as obj:
                await connector.put(key, obj)
        found = await connector.batched_get(list(SIZES))
        assert [holds(obj, key) for obj, key in zip(found, SIZES, strict=True)] == [True, True]
        del found
        [large] = chunk_names("tenant:", ["large"])
        with valkey_server.client() as client:
            assert client.type(large) == b"hash", "large chunks are striped for this user"
            client.hset(large, "2", (client.hget(large, "2") or b"")[:-1])
        assert await connector.batched_exists(list(SIZES)) == [True, True]
        assert sorted(await connector.list()) == sorted(SIZES)
        assert await connector.get("large") is None
        assert await connector.exists("large") is False, "a damaged chunk is removed for this user"
        assert await connector.remove("small") is True
        assert await connector.ping() == 0
        assert (await clear(connector, "")).is_complete


async def test_the_documented_user_cannot_reach_another_prefix(url: str, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(f"{url}?prefix=other", None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for nbytes in SIZES.values():
            with chunk(local_cpu_backend, "k", nbytes) as obj:
                with pytest.raises(AuthenticationError):
                    await connector.put("k", obj)
        with pytest.raises(AuthenticationError):
            await connector.get("k")
