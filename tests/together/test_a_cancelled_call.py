"""A call that is cancelled at any moment disturbs no other, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import FaultProxy, RedisServer, StampedValue, ValkeyServer

from .conftest import CONFIG
from .crowd import Crowd
from .stock import MIB, SMALL, STRIPED, WHOLE, Stock, new_chunk

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]


@pytest.mark.parametrize("seed", [1, 2])
async def test_cancelling_some_of_many_calls_disturbs_no_other_and_holds_no_memory(
    connector: ManagedConnector, server: ValkeyServer | RedisServer, seed: int
) -> None:
    with server.client() as client:
        stock = await Stock(SMALL + WHOLE + STRIPED).fill(connector, client)
    crowd = Crowd(connector, stock, random.Random(seed))
    await crowd.run(150, cancelled=150)
    assert crowd.done["cancelled"] == 150
    assert all(item.in_flight == 0 for item in connector.statistics().values())


@pytest.mark.parametrize(
    "options", [{"io": "thread"}, {"io": "loop"}, {"stripe": "0", "io": "thread"}, {"stripe": "0"}]
)
async def test_a_put_cancelled_amid_its_bytes_touches_its_memory_no_more_and_the_store_has_one_whole_chunk(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend, options: dict[str, str]
) -> None:
    rng = random.Random(str(options))
    nbytes = 6 * MIB
    query = "&".join(f"{name}={value}" for name, value in options.items())
    with FaultProxy(server.host, server.port) as proxy, server.client() as client:
        url = f"redis://{proxy.host}:{proxy.port}?{query}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
            connector = manager.create_connector()
            stock = await Stock(SMALL, damaged=()).fill(connector, client)
            crowd = Crowd(connector, stock, rng)
            with await new_chunk(backend, "k", 1, nbytes) as old:
                await connector.put("k", old)
            for version in range(2, 22):
                with await new_chunk(backend, "k", version, nbytes) as new:
                    enough = proxy.bytes_to_server + rng.randrange(nbytes)
                    putting = asyncio.ensure_future(connector.put("k", new))
                    others = [asyncio.ensure_future(crowd.get(item)) for item in stock.chunks]
                    while proxy.bytes_to_server < enough and not putting.done():
                        await asyncio.sleep(0)
                    putting.cancel()
                    await asyncio.wait((putting,))
                    new.byte_array[:] = b"\xaa" * nbytes
                    await asyncio.gather(*others)
                found = await connector.get("k")
                assert found is not None
                with found:
                    value = await StampedValue.read("k", found.byte_array)  # raises for a mixture
                del found
                assert value.version <= version
    server.flush()
