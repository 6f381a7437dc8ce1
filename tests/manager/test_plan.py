"""What answers for a URL, and for the URLs inside it, is one frozen plan."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    ConnectorOptions,
    InvalidURLError,
    RemoteConnector,
    RemoteURL,
    WrappingConnector,
)
from lmcache_connect.errors import InvalidOptionError, UnknownSchemeError
from lmcache_connect.foreign import PluginTable
from lmcache_connect.manager import AdapterRegistry
from lmcache_connect.manager.plan import Plan
from lmcache_connect.manager.resolving import Resolver

from .test_manager import SMALL, Scripted, ScriptedAdapter

SECRETIVE = "memory://user:hunter2@name?timeout=3"


class PairConnector(WrappingConnector):
    def __init__(self, first: RemoteConnector, second: RemoteConnector) -> None:
        super().__init__(first)
        self.second = second


class PairAdapter(ConnectorAdapter):
    """A wrapper around two stores."""

    schema = "pair://"
    options = ConnectorOptions

    def wrapped_urls(self, url: RemoteURL, config: Any) -> tuple[RemoteURL, ...]:
        return (RemoteURL.parse("memory://first?retries=1&timeout=1"), RemoteURL.parse("memory://second?timeout=2"))

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return PairConnector(context.make_wrapped(), context.make_wrapped(1))


def resolver(registry: AdapterRegistry | None = None, config: ConnectorConfig = SMALL) -> Resolver:
    return Resolver(registry or AdapterRegistry(), PluginTable(config, config), config, config, None)


def plan(url: str, registry: AdapterRegistry | None = None) -> Plan:
    return resolver(registry).plan(RemoteURL.parse(url))


def pairs() -> AdapterRegistry:
    registry = AdapterRegistry()
    registry.register(PairAdapter)
    return registry


def test_a_wrapper_has_the_plan_of_the_store_inside() -> None:
    made = plan("fault+audit+memory://name?timeout=3&audit_verify=no&fault_seed=7")
    names = []
    at = made
    while at.inner:
        names.append(type(at.adapter).__name__)
        (at,) = at.inner
    assert names == ["FaultConnectorAdapter", "AuditConnectorAdapter"]
    assert at.url == RemoteURL.parse("memory://name?timeout=3")
    assert at.options == ConnectorOptions(timeout=3)


def test_a_wrapper_may_stand_around_several_stores() -> None:
    made = plan("pair://", pairs())
    assert [inner.url.host for inner in made.inner] == ["first", "second"]


@pytest.mark.asyncio
async def test_each_of_several_stores_inside_is_made_by_its_number() -> None:
    async with ConnectorManager("pair://", config=SMALL) as manager:
        manager.register(PairAdapter)
        pair: Any = manager.create_connector().wrapped
        with await manager.local_cpu_backend.allocate_async((4,), "uint8") as chunk:
            await pair.second.put("k", chunk)
        assert await pair.second.list() == ["k"]
        assert await pair.wrapped.list() == []
        await pair.second.remove("k")


@pytest.mark.asyncio
async def test_an_adapter_that_names_no_url_inside_has_no_connector_to_wrap() -> None:
    class Lonely(ScriptedAdapter):
        def create_connector(self, context: ConnectorContext) -> RemoteConnector:
            return context.make_wrapped()

    async with ConnectorManager("scripted://", config=SMALL) as manager:
        manager.register(Lonely)
        with pytest.raises(InvalidURLError, match="it wraps no other URL"):
            manager.create_connector()


@pytest.mark.parametrize(
    ("url", "timeout", "retries"),
    [("pair://?timeout=9", 9, 1), ("pair://", 1, 1), ("pair://?retries=3", 1, 3), ("memory://x", 1.5, 2)],
)
def test_an_outer_urls_options_beat_an_inner_ones_and_of_several_inside_the_first_wins(
    url: str, timeout: float, retries: int
) -> None:
    base = SMALL.model_copy(update={"operation_timeout": 1.5})
    settings = plan(url, pairs()).settings(base)
    assert (settings.operation_timeout, settings.retries) == (timeout, retries)
    assert base.retries == 2


def test_a_plan_is_frozen() -> None:
    made = plan("memory://x")
    with pytest.raises(FrozenInstanceError):
        made.options = None  # type: ignore[misc]


def test_a_wrong_option_of_a_url_inside_is_refused_before_anything_is_made() -> None:
    with pytest.raises(InvalidOptionError, match="timeout"):
        plan("fault+memory://x?timeout=-1")


def test_a_wrapper_does_not_stand_around_one_of_its_kind() -> None:
    with pytest.raises(InvalidURLError, match=r"fault\+memory:// stands around one of its kind"):
        plan("fault+audit+fault+memory://x")


def test_the_repr_of_a_plan_names_urls_and_adapters_and_no_secret() -> None:
    made = plan(f"fault+{SECRETIVE}&fault_seed=7")
    assert repr(made) == (
        "<Plan fault+memory://name by FaultConnectorAdapter around <Plan memory://name by MemoryConnectorAdapter>>"
    )


@pytest.mark.asyncio
async def test_the_repr_of_a_manager_names_its_store_and_counts_its_connectors() -> None:
    manager = ConnectorManager(SECRETIVE, config=SMALL)
    async with manager:
        assert repr(manager) == "<ConnectorManager memory://name, 0 connectors>"
        manager.create_connector()
        assert repr(manager) == "<ConnectorManager memory://name, 1 connector>"
    assert repr(manager) == "<ConnectorManager memory://name, 0 connectors, closed>"
    assert repr(ConnectorManager(config=SMALL)) == "<ConnectorManager no URL, 0 connectors>"


def test_the_repr_of_a_registry_names_what_was_registered() -> None:
    registry = AdapterRegistry()
    assert repr(registry) == "<AdapterRegistry nothing registered, 0 loaded>"
    registry.load("memory")
    registry.register(PairAdapter)
    assert repr(registry) == "<AdapterRegistry pair registered, 1 loaded>"
    assert repr(AdapterRegistry(registry)) == "<AdapterRegistry pair registered, 0 loaded>"


def test_the_repr_of_a_plug_in_table_names_the_plug_ins() -> None:
    assert repr(PluginTable(SMALL, SMALL)) == "<PluginTable of no plug-ins, 0 loaded>"
    config = SMALL.model_copy(
        update={"remote_storage_plugins": ("a", "b"), "extra_config": {"remote_storage_plugin.a.password": "hunter2"}}
    )
    table = PluginTable(config, config)
    assert repr(table) == "<PluginTable of a, b, 0 loaded>"
    assert "hunter2" not in repr(table.plugins)


@pytest.mark.asyncio
async def test_the_repr_of_a_roster_names_the_connectors_that_are_known() -> None:
    async with ConnectorManager(SECRETIVE, config=SMALL) as manager:
        assert repr(manager._roster) == "<Roster of no connectors>"
        held = manager.create_connector(), manager.create_connector()
        assert repr(manager._roster) == "<Roster of memory-1, memory-2>"
        assert held == manager.connectors


# ---------------------------------------------------------------------------------------- who is asked, in order


class LMCacheAdapter:
    """An adapter as LMCache's are: it derives from nothing here, and answers for more than its schema."""

    schema = "theirs://"

    def can_parse(self, url: str) -> bool:
        return url.startswith(("theirs://", "memory://", "other://"))

    def create_connector(self, context: Any) -> Any:
        return Scripted()


def made_by(url: str, *names: str, registry: AdapterRegistry | None = None) -> str:
    """The class of the adapter that answers for a URL, the plug-ins of these names being there."""
    extra = {f"remote_storage_plugin.{name}.module_path": "tests.foreign.strangers.adapters" for name in names}
    extra |= {f"remote_storage_plugin.{name}.class_name": "MineAdapter" for name in names}
    config = ConnectorConfig.load(remote_storage_plugins=names, extra_config=extra)
    made = resolver(registry, config).plan(RemoteURL.parse(url))
    return f"{type(getattr(made.adapter, 'foreign', made.adapter)).__name__} {made.plugin_name}"


def test_plug_ins_are_asked_before_the_registry_in_the_configurations_order() -> None:
    assert made_by("memory://x", "one", "two") == "MineAdapter one"
    assert made_by("plugin://two", "one", "two") == "MineAdapter two"
    assert made_by("blackhole://", "one") == "BlackholeConnectorAdapter None"


def test_an_adapter_written_for_lmcache_is_asked_last() -> None:
    registry = AdapterRegistry()
    registry.register(LMCacheAdapter)  # type: ignore[arg-type]
    assert made_by("theirs://x", registry=registry) == "LMCacheAdapter None"
    assert made_by("other://x", registry=registry) == "LMCacheAdapter None"
    assert made_by("memory://x", registry=registry) == "MemoryConnectorAdapter None"
    with pytest.raises(UnknownSchemeError):
        made_by("nobodys://x", registry=registry)
