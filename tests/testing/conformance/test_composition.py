"""Connectors around others keep every rule that the one inside keeps; the ones that replace a store keep theirs."""

from __future__ import annotations

import pytest

from lmcache_connect.testing import Capabilities, ConnectorConformance
from lmcache_connect.testing.subject import Subject, rule

from .raw_redis import RedisConformance


@pytest.mark.variant
class TestAudit(RedisConformance):
    @pytest.fixture
    def store_url(self) -> str:
        return f"audit+{self.server.url()}"

    @rule
    async def test_what_another_connector_puts_or_removes_is_seen(self, subject: Subject) -> None:
        """Without the comparison, below."""
        pytest.skip("an audit takes what others put for damage, and says so")


@pytest.mark.variant
class TestAuditThatComparesNothing(RedisConformance):
    @pytest.fixture
    def store_url(self) -> str:
        return f"audit+{self.server.url()}?audit_verify=false"


@pytest.mark.variant
class TestFaultsThatNeverCome(RedisConformance):
    @pytest.fixture
    def store_url(self) -> str:
        return f"fault+{self.server.url()}"


@pytest.mark.variant
class TestDelays(RedisConformance):
    """A store that answers late now and then keeps every rule."""

    @pytest.fixture
    def store_url(self) -> str:
        return f"fault+{self.server.url()}?fault_delay_rate=0.2&fault_delay=0.01&fault_seed=7"


@pytest.mark.variant
class TestFaultsAroundAnAudit(ConnectorConformance):
    url = "fault+audit+memory://composition?audit_verify=false"
    capabilities = Capabilities(remove=True, list=True, scan=True, ping=True, shared=True)


class TestMock(ConnectorConformance):
    """Each connector has chunks of its own, so that none is shared; and no records, so that none is raw."""

    url = "mock://1/?peeking_latency=0&read_throughput=1000&write_throughput=1000"
    capabilities = Capabilities(remove=True, list=True, scan=True, ping=True)
