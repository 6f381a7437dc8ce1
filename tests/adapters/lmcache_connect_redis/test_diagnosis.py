"""What a connector tells of real servers: one with TLS, a Cluster, a ring, and a service that sentinels watch over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.contract import Diagnosable, Finding, Verdict
from lmcache_connect.testing import RedisServer, ValkeyServer
from lmcache_connect.testing.servers.redis_proxies import TwemproxyServer
from lmcache_connect.testing.servers.redis_store import RedisStore

TIMEOUT = 2.0


def diagnosed(url: str) -> list[Finding]:
    async def collect() -> list[Finding]:
        with LocalCPUBackend(1 << 20) as backend:
            async with ConnectorManager(url, None, backend) as manager:
                wrapped = manager.create_connector().wrapped
                assert isinstance(wrapped, Diagnosable)
                return [finding async for finding in wrapped.diagnose(TIMEOUT)]

    return asyncio.run(collect())


def verdicts(findings: list[Finding]) -> dict[str, Verdict]:
    return {finding.subject: finding.verdict for finding in findings}


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    if not RedisServer.available():
        pytest.skip("no redis-server on this machine")
    with RedisServer(tls=True, password="s3cret") as server:
        yield server


@pytest.mark.tls
def test_the_certificate_of_a_server_is_told(tls_server: RedisServer) -> None:
    url = tls_server.url("rediss", options={"ca_file": tls_server.ca_file})
    [tls] = [finding for finding in diagnosed(url) if finding.subject == "TLS"]
    assert tls.verdict is Verdict.GOOD
    assert tls.found.startswith("certificate of ")
    assert tls.found.endswith(" days left")
    [unverified] = [
        one for one in diagnosed(tls_server.url("rediss", options={"verify": "false"})) if one.subject == "TLS"
    ]
    assert unverified.verdict is Verdict.HURTS
    assert diagnosed(tls_server.url("rediss"))[-1].verdict is Verdict.UNUSABLE, "nobody knows its authority"


@pytest.mark.tls
def test_a_port_without_tls_is_told_from_one_that_is_closed(tls_server: RedisServer) -> None:
    last = diagnosed(f"rediss://127.0.0.1:{tls_server.port}")[-1]
    assert (last.subject, last.verdict) == ("TLS", Verdict.UNUSABLE)
    assert "speaks no TLS" in last.found


def test_the_slots_and_all_nodes_of_a_cluster_are_told(redis_cluster: RedisStore) -> None:
    findings = diagnosed(redis_cluster.url())
    told = verdicts(findings)
    assert told["cluster"] is Verdict.GOOD
    assert told["commands"] is Verdict.GOOD
    assert told["replicas"] is Verdict.GOOD
    [commands] = [finding for finding in findings if finding.subject == "commands"]
    assert commands.found.startswith("3 servers: SET GET EXISTS ")
    assert "ASKING" in commands.found


def test_each_server_of_a_ring_is_told_and_the_lost_one_named(redis_ring: RedisStore) -> None:
    assert verdicts(diagnosed(redis_ring.url()))["commands"] is Verdict.GOOD
    url = redis_ring.url().partition("?")[0] + ",127.0.0.1:1"
    [lost] = [finding for finding in diagnosed(url) if finding.verdict is Verdict.FAILS]
    assert lost.subject == "connect"
    assert lost.servers == ("127.0.0.1:1",)


def test_sentinels_and_their_primary_are_told(redis_sentinel: RedisStore) -> None:
    findings = diagnosed(redis_sentinel.url())
    told = verdicts(findings)
    assert told["sentinels"] is Verdict.GOOD
    assert told["failover"] is Verdict.GOOD
    assert told["commands"] is Verdict.GOOD
    assert told["replicas"] is Verdict.GOOD


# ------------------------------------------------------------------------------------------- servers that are others


def test_a_replica_is_told_from_a_user_without_rights(valkey_server: ValkeyServer) -> None:
    with ValkeyServer() as replica:
        with replica.client() as client:
            client.replicaof(valkey_server.host, valkey_server.port)
        findings = diagnosed(replica.url())
        told = verdicts(findings)
        assert told["role"] is Verdict.FAILS
        assert "UNLINK, DEL" not in told
        [refused] = [finding for finding in findings if finding.subject.startswith("SET ")]
        assert "this server is a replica" in refused.found


def test_a_node_of_a_cluster_is_told_from_a_single_server(redis_cluster: RedisStore) -> None:
    address = redis_cluster.url().partition("://")[2].partition(",")[0]
    [cluster] = [finding for finding in diagnosed(f"redis://{address}") if finding.subject == "cluster"]
    assert cluster.verdict is Verdict.FAILS
    assert "redis-cluster://" in cluster.advice


@pytest.mark.proxy
@pytest.mark.skipif(not TwemproxyServer.available(), reason="twemproxy (nutcracker) is not installed on this machine")
def test_behind_a_proxy_that_knows_little_little_is_tried(valkey_server: ValkeyServer) -> None:
    with TwemproxyServer(valkey_server) as proxy:
        findings = diagnosed(proxy.url())
    told = verdicts(findings)
    assert told["server"] is Verdict.NOTE
    [commands] = [finding for finding in findings if finding.subject == "commands"]
    assert commands.found == "SET GET EXISTS DEL"
    assert Verdict.FAILS not in told.values()
