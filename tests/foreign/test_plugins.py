"""Plug-ins that the configuration names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, ManagedConnector
from lmcache_connect.errors import (
    InvalidConfigError,
    PluginClassMissingError,
    PluginImportError,
    PluginTypeError,
    UnknownSchemeError,
)
from lmcache_connect.foreign.connector import ForeignConnector

from . import gate

pytestmark = pytest.mark.asyncio


def place(name: str, module: str, class_name: str, **settings: Any) -> dict[str, Any]:
    entries = {"module_path": f"tests.foreign.strangers.{module}", "class_name": class_name, **settings}
    return {f"remote_storage_plugin.{name}.{setting}": value for setting, value in entries.items()}


def config(*names: str, extra: dict[str, Any], **settings: Any) -> ConnectorConfig:
    return ConnectorConfig.load(remote_storage_plugins=names, extra_config=extra, **settings)


async def works(manager: ConnectorManager, connector: ManagedConnector) -> None:
    with await manager.local_cpu_backend.allocate_async((64,), "uint8") as chunk:
        await connector.put("k", chunk)
    found = await connector.get("k")
    assert found is not None
    found.ref_count_down()


async def test_a_connector_class_is_a_plug_in_and_is_given_its_settings() -> None:
    named = config("mini", extra=place("mini", "minimal", "MinimalConnector", folder="/data", level=3))
    async with ConnectorManager("plugin://mini", config=named) as manager:
        connector = manager.create_connector()
        await works(manager, connector)
        given = connector.wrapped.given  # type: ignore[attr-defined]
        assert (given["folder"], given["level"], given["config"]) == ("/data", 3, named)
        assert connector.context.plugin_name == "mini"


async def test_instances_of_one_type_have_settings_of_their_own_over_those_of_the_type() -> None:
    extra = place("mini", "minimal", "MinimalConnector", folder="/shared", level=1)
    extra |= {"remote_storage_plugin.mini.a.folder": "/a", "remote_storage_plugin.mini.b.folder": "/b"}
    async with ConnectorManager(config=config("mini.a", "mini.b", extra=extra)) as manager:
        given = [
            (await manager.open_connector(f"plugin://mini.{name}")).wrapped.given  # type: ignore[attr-defined]
            for name in "ab"
        ]
        assert [(each["folder"], each["level"]) for each in given] == [("/a", 1), ("/b", 1)]


async def test_an_adapter_is_a_plug_in_and_goes_before_the_built_in_ones() -> None:
    extra = place("mine", "adapters", "MineAdapter", folder="/data")
    async with ConnectorManager(config=config("mine", extra=extra)) as manager:
        for url in ("mine://host", "memory://host", "plugin://mine", "plugin://mine.other"):
            connector = await manager.open_connector(url)
            assert type(connector.wrapped).__name__ == "MinimalConnector"
            assert connector.wrapped.given["url"] == url  # type: ignore[attr-defined]
            assert connector.context.plugin_name == (url.removeprefix("plugin://") if "plugin" in url else "mine")


async def test_adapters_and_connectors_may_derive_from_nothing() -> None:
    extra = place("duck", "adapters", "DuckAdapter") | place("mine", "adapters", "MineAdapter")
    async with ConnectorManager(config=config("duck", "mine", extra=extra)) as manager:
        connector = await manager.open_connector("duck://pond")
        assert isinstance(connector.wrapped, ForeignConnector)
        await works(manager, connector)
        # One that stumbles over a URL does not stand in another's way.
        await works(manager, await manager.open_connector("mine://host"))


async def test_plug_ins_are_tried_in_the_order_of_the_configuration() -> None:
    extra = place("first", "adapters", "MineAdapter", folder="1") | place(
        "second", "adapters", "MineAdapter", folder="2"
    )
    for names in (("first", "second"), ("second", "first")):
        async with ConnectorManager(config=config(*names, extra=extra)) as manager:
            assert [plugin.name for plugin in manager.plugins] == list(names)
            connector = await manager.open_connector("mine://host")
            assert connector.context.plugin_name == names[0]


async def test_any_object_with_lmcaches_settings_is_a_configuration() -> None:
    named = SimpleNamespace(
        remote_storage_plugins=["mini"], extra_config=place("mini", "minimal", "MinimalConnector", folder="/x")
    )
    async with ConnectorManager("plugin://mini", config=named) as manager:
        await works(manager, manager.create_connector())


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({}, InvalidConfigError),
        (place("bad", "nowhere", "X"), PluginImportError),
        (place("bad", "exiting", "X"), PluginImportError),
        (place("bad", "minimal", "Missing"), PluginClassMissingError),
        (place("bad", "minimal", "NotAConnector"), PluginTypeError),
        (place("bad", "minimal", "instance"), PluginTypeError),
    ],
)
async def test_a_plug_in_that_cannot_load_is_reported_by_name_and_disturbs_no_other(
    extra: dict[str, Any], kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    named = config("bad", "mini", extra=extra | place("mini", "minimal", "MinimalConnector"))
    with caplog.at_level(logging.WARNING, "lmcache_connect"):
        async with ConnectorManager(config=named) as manager:
            bad, mini = manager.plugins
            assert isinstance(bad.failure, kind)
            assert mini.failure is None
            with pytest.raises(kind):
                await manager.open_connector("plugin://bad")
            await works(manager, await manager.open_connector("plugin://mini"))
            await works(manager, await manager.open_connector("memory://m"))
    reports = [record.getMessage() for record in caplog.records if "plugin_failed" in record.getMessage()]
    assert len(reports) == 1
    assert "bad" in reports[0]


async def test_a_plug_in_that_hangs_is_given_up_in_time() -> None:
    gate.OPEN.clear()
    try:
        named = config("slow", extra=place("slow", "hanging_too", "Asleep"), import_timeout=0.2)
        async with ConnectorManager(config=named) as manager:
            with pytest.raises(PluginImportError, match=r"did not end within 0\.2 s"):
                await manager.open_connector("plugin://slow")
            with pytest.raises(PluginImportError, match="did not end within"):
                manager.create_connector("plugin://slow")
            gate.OPEN.set()
            # It is tried again when it is asked for: this time it tells what it lacks.
            async with asyncio.timeout(20):
                with pytest.raises(PluginClassMissingError):
                    while True:
                        with contextlib.suppress(PluginImportError):  # it is still at it
                            await manager.open_connector("plugin://slow")
    finally:
        gate.OPEN.set()


async def test_a_plug_in_that_nobody_named_is_unknown() -> None:
    async with ConnectorManager(config=config("mini", extra=place("mini", "minimal", "MinimalConnector"))) as manager:
        with pytest.raises(UnknownSchemeError, match="plugin://mini"):
            await manager.open_connector("plugin://other")
