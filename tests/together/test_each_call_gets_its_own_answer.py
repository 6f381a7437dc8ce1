"""Among a thousand single calls at the same time, each one gets its own answer."""

from __future__ import annotations

import random

import pytest

from lmcache_connect import ManagedConnector
from lmcache_connect.testing import RedisServer, ValkeyServer

from .crowd import Crowd
from .stock import LARGEST, SMALL, STRIPED, WHOLE, Stock

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]


async def test_each_of_a_thousand_concurrent_calls_gets_its_own_answer(
    connector: ManagedConnector, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock(SMALL * 4 + WHOLE + STRIPED + LARGEST).fill(connector, client)
    crowd = Crowd(connector, stock, random.Random(1))
    await crowd.run(1000)
    assert min(crowd.done[operation] for operation in ("get", "exists", "put")) > 100, crowd.done
