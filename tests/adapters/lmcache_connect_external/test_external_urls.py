"""`external://`: a connector named in a URL is imported, checked, made, and works like a built-in one."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LMCacheConnectError
from lmcache_connect.errors import (
    InvalidConfigError,
    PluginClassMissingError,
    PluginConstructionError,
    PluginImportError,
    PluginTypeError,
)

from ...foreign import gate

pytestmark = pytest.mark.asyncio

STRANGERS = "tests.foreign.strangers"


def url(module: str = "minimal", name: str | None = "MinimalConnector", more: str = "", host: str = "host:0") -> str:
    query = "&".join(filter(None, (f"connector_name={name}" if name else "", more)))
    return f"external://{host}/{STRANGERS}.{module}/" + (f"?{query}" if query else "")


async def made(manager: ConnectorManager, address: str) -> Any:
    return (await manager.open_connector(address)).wrapped


async def works(manager: ConnectorManager, address: str) -> None:
    connector = await manager.open_connector(address)
    with await manager.local_cpu_backend.allocate_async((64,), "uint8") as chunk:
        chunk.byte_array[:2] = b"KV"
        await connector.put("k", chunk)
    assert await connector.exists("k")
    found = await connector.get("k")
    assert found is not None
    with found:
        assert bytes(found.byte_array[:2]) == b"KV"


async def test_a_path_may_have_slashes_or_dots() -> None:
    async with ConnectorManager() as manager:
        await works(manager, url())
        await works(manager, url().replace(f"{STRANGERS}.minimal/", f"{STRANGERS.replace('.', '/')}/minimal"))


async def test_a_class_is_given_what_its_constructor_asks_for() -> None:
    config = SimpleNamespace(any="object")
    async with ConnectorManager(config=config) as manager:
        usual = (await made(manager, url(more="speed=fast"))).given
        assert usual == {
            "loop": asyncio.get_running_loop(),
            "local_cpu_backend": manager.local_cpu_backend,
            "config": config,
            "speed": "fast",
        }
        asked = (await made(manager, url(name="Asking", more="speed=fast&colour=red"))).given
        assert asked["context"].url == asked["url"] == url(name="Asking", more="speed=fast&colour=red")
        assert (asked["speed"], asked["host"]) == ("fast", "host")


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        (url(host="a:1,b:2"), ValueError, "2 hosts; expected a single one"),
        (f"{url()},{url()}", ValueError, "several URLs joined by a comma; expected a single one"),
        (f"external://a:1,{url()}", ValueError, "several URLs joined by a comma; expected one"),
        (url(name=None), ValueError, "connector_name is missing"),
        (url(name="NotAConnector"), TypeError, r"not a connector: it has no exists, put, list, close\(\)"),
        (url(name="instance"), TypeError, "a NotAConnector; expected a class"),
        (url(name="Demanding"), TypeError, "it takes flux_capacitor; it can be given loop"),
        (url("nowhere"), ImportError, "ModuleNotFoundError: No module named"),
        (url("raising"), ImportError, "RuntimeError: no such hardware"),
        (url("exiting"), ImportError, "SystemExit.7."),
        (url(name="Missing"), AttributeError, "nothing of this name"),
        (url(name="Explosive"), PluginConstructionError, "RuntimeError: no power"),
        (url(name="Quitting"), PluginConstructionError, r"SystemExit\(3\)"),
        (url(name="not-a-name"), AttributeError, "cannot be a class's name"),
        ("external://host:0/?connector_name=X", ImportError, "is not a module's name, such as"),
        ("external://host:0/../etc/passwd?connector_name=X", ImportError, "is not a module's name, such as"),
    ],
)
async def test_what_cannot_be_used_is_refused_with_a_typed_error_and_the_manager_stays_usable(
    address: str, kind: type[Exception], message: str
) -> None:
    async with ConnectorManager() as manager:
        with pytest.raises(kind, match=message) as refused:
            await manager.open_connector(address)
        assert isinstance(refused.value, LMCacheConnectError)
        assert not manager.connectors
        await works(manager, url())


async def test_a_refusal_names_module_class_and_cause() -> None:
    async with ConnectorManager() as manager:
        with pytest.raises(PluginImportError) as refused:
            await manager.open_connector(url("raising", "Some"))
    assert (refused.value.module, refused.value.class_name) == (f"{STRANGERS}.raising", "Some")
    assert isinstance(refused.value.__cause__, RuntimeError)


async def test_a_refusal_names_the_distribution() -> None:
    async with ConnectorManager() as manager:
        with pytest.raises(PluginClassMissingError) as missing:
            await manager.open_connector("external://host:0/redis/?connector_name=Nothing")
        with pytest.raises(PluginTypeError) as wrong:
            await manager.open_connector("external://host:0/redis/?connector_name=ConnectionError")
    assert missing.value.distribution == wrong.value.distribution == "redis"


async def test_a_module_that_hangs_is_given_up_and_holds_up_neither_the_loop_nor_the_manager(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate.OPEN.clear()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    counting = asyncio.create_task(count())
    try:
        async with ConnectorManager(config=ConnectorConfig.load(import_timeout=0.3)) as manager:
            with pytest.raises(PluginImportError, match=r"did not end within 0\.3 s"):
                await manager.open_connector(url("hanging"))
            assert turns > 20
            # Called without `await`, it holds up the loop for as long, and says so.
            with pytest.raises(PluginImportError, match=r"did not end within 0\.3 s"):
                manager.create_connector(url("hanging"))
            assert "loop_held" in caplog.text
            assert "await open_connector()" in caplog.text
            await works(manager, url())
            gate.OPEN.set()
            while f"{STRANGERS}.hanging" not in sys.modules or "OPEN" not in vars(sys.modules[f"{STRANGERS}.hanging"]):
                await asyncio.sleep(0)
            await works(manager, url("hanging"))
    finally:
        gate.OPEN.set()
        counting.cancel()


async def test_allowed_modules_lock_imports_down_to_exact_names() -> None:
    config = ConnectorConfig.load(allowed_modules=[f"{STRANGERS}.minimal"])
    async with ConnectorManager(config=config) as manager:
        await works(manager, url())
        sys.modules.pop(f"{STRANGERS}.raising", None)
        with pytest.raises(PluginImportError, match=f"not allowed; allowed_modules names {STRANGERS}.minimal"):
            await manager.open_connector(url("raising"))
        with pytest.raises(PluginImportError, match="not allowed"):
            await manager.open_connector("external://host:0/tests.foreign.strangers/?connector_name=X")


async def test_allowed_modules_come_from_the_environment_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_ALLOWED_MODULES", "[]")
    async with ConnectorManager() as manager:
        with pytest.raises(PluginImportError, match="allowed_modules names none"):
            await manager.open_connector(url())
    monkeypatch.setenv("LMCACHE_CONNECT_ALLOWED_MODULES", "not json")
    with pytest.raises(InvalidConfigError, match=r"'allowed_modules'.*; expected JSON in the environment variable"):
        ConnectorManager()
