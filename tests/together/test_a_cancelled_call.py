"""A call that is cancelled at any moment disturbs no other, and leaves nothing behind."""

from __future__ import annotations

import random

import pytest

from lmcache_connect import ManagedConnector
from lmcache_connect.testing import RedisServer, ValkeyServer

from .crowd import Crowd
from .stock import SMALL, STRIPED, WHOLE, Stock

pytestmark = pytest.mark.asyncio


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
