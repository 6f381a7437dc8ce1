"""A connector that was loaded by its name keeps every rule: a native class, and one that derives from nothing."""

from __future__ import annotations

import pytest

from lmcache_connect.testing.conformance import Capabilities, ConnectorConformance
from tests.conformance.raw_redis import RedisConformance


class TestReferenceRedisByName(RedisConformance):
    adapters = ()

    @pytest.fixture
    def store_url(self) -> str:
        where = self.server.url().removeprefix("redis://").partition("/")[0]
        return f"external://{where}/lmcache_reference_connectors.redis/?connector_name=RedisReferenceConnector"


class TestMinimalByName(ConnectorConformance):
    url = "external://host:0/tests.external.strangers.minimal/?connector_name=MinimalConnector"
    capabilities = Capabilities(remove=True, list=True, scan=True)


class TestDuckByName(ConnectorConformance):
    url = "external://host:0/tests.external.strangers.duck/?connector_name=Duck"
    capabilities = Capabilities()
