"""The roster of a manager: what it keeps of connectors that were closed or forgotten."""

from __future__ import annotations

import pytest

from lmcache_connect import ConnectorManager

pytestmark = pytest.mark.asyncio


async def test_of_a_thousand_connectors_that_were_closed_a_few_are_kept_and_each_open_one() -> None:
    async with ConnectorManager("memory://a") as manager:
        kept = [manager.create_connector(f"memory://kept{number}") for number in range(3)]
        for number in range(1000):
            await manager.create_connector(f"memory://closed{number}").close()
        assert len(manager._roster.owned) <= 33
        assert [connector for connector in manager.connectors if connector in kept] == kept


async def test_each_of_many_open_connectors_is_kept_in_order_and_closed_at_the_end() -> None:
    async with ConnectorManager("memory://a") as manager:
        opened = [manager.create_connector(f"memory://{number}") for number in range(100)]
        assert [connector for connector in manager.connectors if connector in opened] == opened
    assert all(connector.is_closed for connector in opened)
