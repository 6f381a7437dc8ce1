"""A URL's options are parsed and validated once, and carried to where they are used."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    ConnectorOptions,
    RemoteConnector,
    WrappingAdapter,
    WrappingConnector,
)
from lmcache_connect.errors import UnknownOptionError

from .test_manager import SMALL, Scripted

pytestmark = pytest.mark.asyncio


class CountedOptions(ConnectorOptions):
    """Counts its instances."""

    made: ClassVar[list[str]] = []

    def model_post_init(self, context: Any, /) -> None:
        self.made.append(type(self).__name__)


class StoreOptions(CountedOptions):
    size: int = 0


class AroundOptions(CountedOptions):
    around_size: int = 0


class StoreAdapter(ConnectorAdapter):
    schema = "counted://"
    options = StoreOptions
    used: ClassVar[list[ConnectorOptions]] = []

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        self.used.append(context.options(StoreOptions))
        return Scripted()


class AroundAdapter(WrappingAdapter):
    prefix = "around"
    options = AroundOptions
    used: ClassVar[list[ConnectorOptions]] = []

    def wrap(self, connector: RemoteConnector, context: ConnectorContext) -> RemoteConnector:
        self.used.append(context.options(AroundOptions))
        return WrappingConnector(connector)


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    for seen in (CountedOptions.made, StoreAdapter.used, AroundAdapter.used):
        seen.clear()


def manager_of(url: str, config: ConnectorConfig = SMALL) -> ConnectorManager:
    manager = ConnectorManager(url, config=config)
    manager.register(StoreAdapter)
    manager.register(AroundAdapter)
    return manager


async def test_a_connectors_options_are_validated_exactly_once() -> None:
    async with manager_of("counted://h?size=3") as manager:
        manager.create_connector()
        assert CountedOptions.made == ["StoreOptions"]
        assert [options.size for options in StoreAdapter.used] == [3]  # type: ignore[attr-defined]
        await manager.open_connector()
        assert CountedOptions.made == ["StoreOptions"] * 2


async def test_a_wrappers_own_options_are_validated_once_as_well() -> None:
    async with manager_of("around+counted://h?size=3&around_size=4") as manager:
        manager.create_connector()
    assert sorted(CountedOptions.made) == ["AroundOptions", "StoreOptions"]
    assert AroundAdapter.used == [AroundOptions(around_size=4)]
    assert StoreAdapter.used == [StoreOptions(size=3)]


async def test_recreating_uses_the_options_that_were_validated_before() -> None:
    async with manager_of("around+counted://h?size=3&around_size=4") as manager:
        connector = manager.create_connector()
        await manager.recreate(connector)
    assert len(CountedOptions.made) == 2
    for used in (StoreAdapter.used, AroundAdapter.used):
        first, second = used
        assert first is second


async def test_an_adapter_without_a_model_may_parse_the_query_itself() -> None:
    class Untyped(StoreAdapter):
        options = None  # type: ignore[assignment]

    async with manager_of("counted://h?size=3") as manager:
        manager.register(Untyped, replace=True)
        manager.create_connector()
        assert StoreAdapter.used == [StoreOptions(size=3)]
        with pytest.raises(UnknownOptionError, match="other"):
            manager.create_connector("counted://h?other=1")
