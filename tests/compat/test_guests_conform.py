"""Connectors that were written for LMCache keep every rule of the suite, whichever way they were loaded."""

from __future__ import annotations

import pytest

from lmcache_connect import CacheMetadata, ConnectorConfig, compat
from lmcache_connect.record.lmcache_metadata import REMOTE_DTYPES
from lmcache_connect.testing import Capabilities, ConnectorConformance
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect.testing.subject import Subject, rule

GUESTS = "tests.compat.guests"
MODEL = CacheMetadata("org/model", 2, 1, "bfloat16", (4, 2, 16, 2, 8), chunk_size=16)


@pytest.mark.usefixtures("lmcache_names")
class OnAServer(ConnectorConformance):
    metadata = MODEL
    capabilities = Capabilities(
        remove=True, list=True, scan=True, ping=True, shared=True, dtypes=REMOTE_DTYPES, dimensions=4
    )

    @pytest.fixture(autouse=True)
    def _on_valkey(self, valkey_server: StoreServer) -> None:
        valkey_server.flush()
        self.address = self.store_address = valkey_server.url().removeprefix("redis://").partition("/")[0]

    @rule
    async def test_several_tensor_groups_round_trip(self, subject: Subject) -> None:
        """As without LMCache."""
        if not compat.is_installed():
            pytest.skip("LMCache itself has one number of tensor groups for the whole process")
        await ConnectorConformance.test_several_tensor_groups_round_trip(self, subject)

    @rule
    async def test_as_many_tensor_groups_as_a_chunk_may_have_round_trip(self, subject: Subject) -> None:
        """As without LMCache."""
        if not compat.is_installed():
            pytest.skip("LMCache itself has one number of tensor groups for the whole process")
        await ConnectorConformance.test_as_many_tensor_groups_as_a_chunk_may_have_round_trip(self, subject)


class TestByURL(OnAServer):
    @pytest.fixture
    def store_url(self) -> str:
        return f"external://{self.address}/{GUESTS}.redis_store/?connector_name=MyStoreConnector"


@pytest.mark.variant
class TestByConfiguration(OnAServer):
    url = "plugin://mystore"

    @pytest.fixture(autouse=True)
    def _is_not_in_the_url(self, _on_valkey: None) -> None:
        self.store_address = ""

    def config(self) -> ConnectorConfig:
        extra = {
            "remote_storage_plugin.mystore.module_path": f"{GUESTS}.redis_store",
            "remote_storage_plugin.mystore.class_name": "MyStoreConnector",
            "remote_storage_plugin.mystore.address": f"redis://{self.address}",
        }
        return super().config().model_copy(update={"remote_storage_plugins": ("mystore",), "extra_config": extra})


@pytest.mark.variant
class TestByItsAdapter(OnAServer):
    @pytest.fixture
    def store_url(self) -> str:
        from .guests.redis_store import MyStoreConnectorAdapter

        self.adapters = (MyStoreConnectorAdapter,)
        return f"mystore://{self.address}"


@pytest.mark.usefixtures("lmcache_names")
class TestADuck(ConnectorConformance):
    url = f"external://host:0/{GUESTS}.duck/?connector_name=Duck"
    capabilities = Capabilities()


@pytest.mark.variant
@pytest.mark.usefixtures("lmcache_names")
class TestOneThatNeverCallsItsBase(ConnectorConformance):
    url = f"external://host:0/{GUESTS}.careless/?connector_name=Compacting"
    capabilities = Capabilities()
