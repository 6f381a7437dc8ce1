"""A connector of others keeps every rule, whichever way it was loaded: a native class, and one that derives from
nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcache_connect import ConnectorConfig
from lmcache_connect.testing import Capabilities, ConnectorConformance

from ...foreign.strangers.adapters import MinimalAdapter

STRANGERS = "tests.foreign.strangers"


class MinimalConformance(ConnectorConformance):
    capabilities = Capabilities(remove=True, list=True, scan=True)


class TestMinimalByName(MinimalConformance):
    url = f"external://host:0/{STRANGERS}.minimal/?connector_name=MinimalConnector"


@pytest.mark.variant
class TestMinimalRegistered(MinimalConformance):
    url = "minimal://host"
    adapters = (MinimalAdapter,)


@pytest.mark.variant
class TestMinimalInstalled(MinimalConformance):
    url = "minimal://host"

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        info = tmp_path / "minimal_store-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: minimal-store\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[lmcache_connect.adapters]\nminimal = {STRANGERS}.adapters:MinimalAdapter\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))


class PluginConformance(ConnectorConformance):
    module: str
    class_name: str
    url = "plugin://mini"

    def config(self) -> ConnectorConfig:
        extra = {"module_path": f"{STRANGERS}.{self.module}", "class_name": self.class_name}
        named = {f"remote_storage_plugin.mini.{setting}": value for setting, value in extra.items()}
        return super().config().model_copy(update={"remote_storage_plugins": ("mini",), "extra_config": named})


@pytest.mark.variant
class TestMinimalAsAPlugin(PluginConformance):
    module = "minimal"
    class_name = "MinimalConnector"
    capabilities = MinimalConformance.capabilities


@pytest.mark.variant
class TestMinimalByAPluginsAdapter(PluginConformance):
    url = "minimal://host"
    module = "adapters"
    class_name = "MinimalAdapter"
    capabilities = MinimalConformance.capabilities


@pytest.mark.variant
class TestMinimalByItsAdaptersPluginUrl(PluginConformance):
    module = "adapters"
    class_name = "MinimalAdapter"
    capabilities = MinimalConformance.capabilities


class TestDuckByName(ConnectorConformance):
    url = f"external://host:0/{STRANGERS}.duck/?connector_name=Duck"
    capabilities = Capabilities()


@pytest.mark.variant
class TestDuckAsAPlugin(PluginConformance):
    module = "duck"
    class_name = "Duck"
    capabilities = Capabilities()


@pytest.mark.variant
class TestDuckByAPluginsAdapter(PluginConformance):
    url = "duck://pond"
    module = "adapters"
    class_name = "DuckAdapter"
    capabilities = Capabilities()
