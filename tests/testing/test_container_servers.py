"""Servers from images, on a fake engine: testcontainers and Docker's own package are real, the containers are not."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect.errors import MissingExtraError
from lmcache_connect.testing import ClusterServers, SentinelServers, ServerStartError, ValkeyServer
from lmcache_connect.testing.servers.container import RedisContainer, ValkeyContainer, why_unavailable
from lmcache_connect.testing.servers.redis import RedisServer
from lmcache_connect.testing.servers.redis_sources import NoSuchStoreError, RedisSources
from lmcache_connect.testing.servers.redis_store import OwnRedisStore

from .fake_engine import FakeEngine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """An engine that has no images yet, and starts the servers of this machine."""
    config: Any = pytest.importorskip("testcontainers.core.config", reason="pip install testcontainers")
    monkeypatch.setattr(config.testcontainers_config, "ryuk_disabled", True)
    monkeypatch.setattr(config.testcontainers_config, "_docker_auth_config", None)
    programs = {"valkey-server": ValkeyServer.binary()}
    # A unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="lmcc-", dir="/tmp") as folder:
        with FakeEngine(Path(folder) / "e", programs) as engine:
            monkeypatch.setenv("DOCKER_HOST", engine.url)
            yield engine
    with warnings.catch_warnings():
        # Docker's package leaves sockets that have ended to the garbage collector, which warns of them.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_container_is_a_server_like_any_other(engine: FakeEngine) -> None:
    with ValkeyContainer(password="s3cret") as server:
        assert server.name.startswith("valkey ")
        with server.client() as client:
            client.set("key", "value")
            assert client.info("server")["process_id"] == server.pid
        port = server.port
        server.pause()
        server.pause()
        server.resume()
        server.resume()
        with server.client() as client:
            assert client.get("key") == b"value"
        assert "Ready to accept connections" in server.log_tail()
        server.kill()
        assert not server.running
        assert not engine.containers
        server.restart()
        assert server.port == port
        server.flush()
    assert not engine.containers


def test_a_container_uses_the_hosts_network_our_user_and_the_servers_own_directory(engine: FakeEngine) -> None:
    with ValkeyContainer() as server:
        directory = str(Path(server.unix_path).parent)
    (spec,) = engine.created
    assert spec["Image"] == "valkey/valkey:9"
    assert spec["Entrypoint"] == ["valkey-server", f"{directory}/conf"]
    assert spec["HostConfig"]["NetworkMode"] == "host"
    assert spec["HostConfig"]["Binds"] == [f"{directory}:{directory}:rw"]
    assert spec["User"] == f"{os.getuid()}:{os.getgid()}"


def test_a_container_that_does_not_come_up_is_reported_with_the_servers_own_words(engine: FakeEngine) -> None:
    with pytest.raises(ServerStartError, match="it exited with status 1") as caught:
        ValkeyContainer(config={"no-such-directive": "1"}).start()
    assert "no-such-directive" in caught.value.log
    assert not engine.containers


@pytest.mark.tls
@pytest.mark.skipif(not RedisServer.available(), reason="no redis-server on PATH; install one to run this test")
def test_a_group_can_be_made_of_containers_with_tls(engine: FakeEngine) -> None:
    with SentinelServers(RedisContainer, tls=True, replicas=1, sentinels=1) as group:
        assert group.ca_file.endswith("ca.pem")
        assert {spec["Image"] for spec in engine.created} == {"redis:8"}
        assert [spec["Entrypoint"][-1] for spec in engine.created].count("--sentinel") == 1
    assert not engine.containers


def test_a_cluster_of_containers_fails_over(engine: FakeEngine) -> None:
    with ClusterServers(ValkeyContainer) as cluster:
        primary = cluster.primaries()[0]
        cluster.kill(primary)
        cluster.wait_until_healthy()
        cluster.mend()
        assert primary in cluster.replicas()
    assert not engine.containers


@pytest.mark.parametrize(
    ("source", "image"),
    [
        ("container", "valkey/valkey:9"),
        ("container:redis", "redis:8"),
        ("container:registry.example/valkey:8.1", "registry.example/valkey:8.1"),
    ],
)
def test_the_source_container_starts_the_image_that_it_names(source: str, image: str, engine: FakeEngine) -> None:
    engine.programs["redis-server"] = engine.programs["valkey-server"]
    sources = RedisSources([source])
    try:
        assert sources.describe() == f"container ({image})"
        store = sources.store("password")
        assert isinstance(store, OwnRedisStore)
        with store.client_of("name") as client:
            client.set("name", "value")
        assert engine.created[0]["Image"] == image
    finally:
        sources.close()
    assert not engine.containers


def test_a_machine_without_an_engine_skips_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")
    assert not ValkeyContainer.available()
    reason = why_unavailable()
    assert reason is not None
    with pytest.raises(NoSuchStoreError) as caught:
        RedisSources(["container"]).store("single")
    assert reason in str(caught.value)


def test_a_missing_testcontainers_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "testcontainers.core.container", None)
    with pytest.raises(MissingExtraError, match=r"lmcache-connect\[containers\]"):
        ValkeyContainer().start()
