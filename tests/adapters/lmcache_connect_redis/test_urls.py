"""What a Redis URL may say, and what it does on a real server."""

from __future__ import annotations

import logging
import socket
import traceback
from pathlib import Path

import pytest

from lmcache_connect import (
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    InvalidURLError,
    LMCacheConnectError,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import CertificateError, InvalidOptionError, UnknownOptionError
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.process import unused_port
from lmcache_connect.testing.servers.redis import RedisServer

from .chunks import chunk, holds

pytestmark = pytest.mark.asyncio

CANARY = "canary-pa/ss@w:rd%?#"
ESCAPED = "canary-pa%2Fss%40w%3Ard%25%3F%23"
QUICK = ConnectorConfig.load(operation_timeout=3, retries=0, max_local_cpu_bytes=16 << 20)


async def round_trip(url: str, key: str = "k") -> None:
    async with ConnectorManager(url, config=QUICK) as manager:
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, key, 1 << 20) as obj:
            await connector.put(key, obj)
        assert holds(await connector.get(key), key)
        assert await connector.list() == [key]


async def failure(url: str) -> LMCacheConnectError:
    async with ConnectorManager(url, config=QUICK) as manager:
        with pytest.raises(LMCacheConnectError) as caught:
            await manager.create_connector().get("k")
        return caught.value


async def test_a_unix_socket_works_like_tcp(valkey_server: ValkeyServer, valkey_url: str) -> None:
    await round_trip(valkey_server.url("unix"))


async def test_valkey_is_a_scheme_of_its_own(valkey_server: ValkeyServer, valkey_url: str) -> None:
    await round_trip(valkey_server.url("valkey"))


async def test_the_database_is_the_paths_or_the_options(valkey_server: ValkeyServer, valkey_url: str) -> None:
    await round_trip(f"{valkey_url}/3")
    await round_trip(f"{valkey_url}?db=4")
    await round_trip(f"{valkey_server.url('unix')}?db=5")
    with valkey_server.client() as client:
        assert {name: info["keys"] for name, info in client.info("keyspace").items()} == {"db3": 1, "db4": 1, "db5": 1}


@pytest.mark.parametrize("kind", ["cluster", "sentinel", "ring"])
async def test_options_of_tls_are_refused_for_several_servers_without_tls(kind: str) -> None:
    async with ConnectorManager(f"valkey-{kind}://h{'/kv' * (kind == 'sentinel')}?ca_file=ca.pem") as manager:
        with pytest.raises(InvalidOptionError, match=f"a scheme with TLS besides it: valkey-{kind} has none"):
            manager.create_connector()


async def test_options_of_tls_are_taken_where_the_sentinels_alone_speak_it() -> None:
    async with ConnectorManager("redis-sentinel://h/kv?ca_file=ca.pem&sentinel_tls=true") as manager:
        manager.create_connector()


async def test_a_ttl_is_set_on_the_server_in_milliseconds(valkey_server: ValkeyServer, valkey_url: str) -> None:
    async with ConnectorManager(f"{valkey_url}?ttl=90.5", config=QUICK) as manager:
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            await connector.put("k", obj)
            await connector.batched_put(["l"], [obj])
    with valkey_server.client() as client:
        for key in ("k", "l"):
            assert 80_000 < client.pttl(chunk_names("", [key])[0]) <= 90_500


async def test_a_prefix_keeps_tenants_apart(valkey_server: ValkeyServer, valkey_url: str) -> None:
    await round_trip(f"{valkey_url}?prefix=team-a")
    await round_trip(f"{valkey_url}?prefix=team-b")
    with valkey_server.client() as client:
        names = [chunk_names(prefix, ["k"])[0] for prefix in ("team-a:", "team-b:")]
        assert sorted(name.decode() for name in client.keys("*")) == names
        assert names[0].startswith("team-a:"), "access rules of the server go by how a name begins"
        # A value that is copied under another tenant's name is not accepted there.
        client.copy(*names, replace=True)
    async with ConnectorManager(f"{valkey_url}?prefix=team-b", config=QUICK) as manager:
        assert await manager.create_connector().get("k") is None


@pytest.mark.parametrize(
    ("suffix", "error", "says"),
    [
        ("?ttll=3", UnknownOptionError, "'ttll'; expected one of ca_file"),
        ("?ttl=soon", InvalidOptionError, "option 'ttl' is 'soon'"),
        ("?ttl=-1", InvalidOptionError, "greater than 0"),
        ("?pool_size=0", InvalidOptionError, "pool_size"),
        ("?prefix=a:b", InvalidOptionError, "prefix"),
        ("?errors=ignore", InvalidOptionError, "'raise' or 'miss'"),
        ("?ca_file=ca.pem", InvalidOptionError, "expected a scheme with TLS besides it: redis has none"),
        ("?cert_file=mine.pem", InvalidOptionError, "expected a scheme with TLS besides it: redis has none"),
        ("?server_name=cache", InvalidOptionError, "expected a scheme with TLS besides it: redis has none"),
        ("?server_name=.cache", InvalidOptionError, "server_name must be a host's name"),
        ("?server_name=" + "a" * 64, InvalidOptionError, "server_name must be a host's name"),
        ("?server_name=a%00b", InvalidOptionError, "server_name must be a host's name"),
        ("?key_file=mine.pem", InvalidOptionError, "key_file needs cert_file besides it"),
        ("/zero", InvalidURLError, "not a database number"),
        ("/1?db=2", InvalidOptionError, "the path says 1"),
        ("?password_file=/nonexistent/secret", InvalidOptionError, "FileNotFoundError"),
        (
            "?password_env=NO_SUCH_VARIABLE_HERE",
            InvalidOptionError,
            "an environment variable that is set to the password",
        ),
    ],
)
async def test_a_bad_option_is_refused_when_the_connector_is_made(
    suffix: str, error: type[InvalidURLError], says: str
) -> None:
    async with ConnectorManager(f"redis://localhost:6379{suffix}", config=QUICK) as manager:
        with pytest.raises(error) as caught:
            manager.create_connector()
    assert says in str(caught.value)
    assert "/nonexistent/secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://", "redis://a,b", "redis://host:0", "unix://", "unix://host/path"])
async def test_a_url_without_exactly_one_server_is_refused(url: str) -> None:
    async with ConnectorManager(url, config=QUICK) as manager:
        with pytest.raises(InvalidURLError):
            manager.create_connector()


async def test_a_database_that_the_server_lacks_raises_in_both_error_modes(valkey_url: str) -> None:
    for mode in ("raise", "miss"):
        async with ConnectorManager(f"{valkey_url}/9999?errors={mode}", config=QUICK) as manager:
            with pytest.raises(StoreError, match="no such database"):
                await manager.create_connector().get("k")


async def test_the_password_may_stand_in_the_url_in_a_file_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text(CANARY + "\n")
    monkeypatch.setenv("STORE_PASSWORD", CANARY)
    with ValkeyServer(password=CANARY) as server:
        await round_trip(server.url())
        await round_trip(f"redis://:{ESCAPED}@{server.host}:{server.port}")
        await round_trip(f"redis://default:{ESCAPED}@{server.host}:{server.port}")
        await round_trip(f"redis://{server.host}:{server.port}?password_file={file}")
        await round_trip(f"redis://{server.host}:{server.port}?password_env=STORE_PASSWORD")


async def test_a_wrong_or_missing_password_raises_in_both_error_modes() -> None:
    with ValkeyServer(password="right") as server:
        for credentials in ("", ":wrong@", "nobody:right@"):
            for mode in ("raise", "miss"):
                error = await failure(f"redis://{credentials}{server.host}:{server.port}?errors={mode}")
                assert isinstance(error, AuthenticationError)
    with ValkeyServer() as server:
        assert isinstance(await failure(f"redis://:needless@{server.host}:{server.port}"), AuthenticationError)


async def test_no_log_line_and_no_error_contains_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    async def note(url: str) -> None:
        try:
            async with ConnectorManager(url, config=QUICK) as manager:
                seen.append(repr(manager))
                connector = manager.create_connector()
                seen.extend(map(repr, (connector, connector.context, connector.wrapped, connector.statistics())))
                with chunk(manager.local_cpu_backend, "k", 4096) as obj:
                    await connector.put("k", obj)
                assert holds(await connector.get("k"), "k")
        except Exception as error:
            seen.append("".join(traceback.format_exception(error)))
            seen.append(repr(error))

    with ValkeyServer(password=CANARY) as server:
        where = f"{server.host}:{server.port}"
        await note(f"redis://:{ESCAPED}@{where}")
        await note(f"redis://user:{ESCAPED}@{where}")
        await note(f"redis://:{ESCAPED}x@{where}")
        await note(f"rediss://:{ESCAPED}@{where}")
        await note(f"redis://:{ESCAPED}@{where}/77777")
    await note(f"redis://:{ESCAPED}@127.0.0.1:{unused_port()}")
    await note(f"redis://:{ESCAPED}@no-such-host.invalid")
    await note(f"redis://:{CANARY}@{where}")
    await note(f"redis://:{ESCAPED}@{where}?nonsense=1")
    await note(f"nonsense://:{ESCAPED}@{where}")
    everything = "\n".join([*seen, *(record.getMessage() + str(record.__dict__) for record in caplog.records)])
    assert len(seen) > 20
    for secret in (CANARY, ESCAPED, "canary"):
        assert secret not in everything


async def test_nobody_listening_is_an_error_that_names_the_address() -> None:
    port = unused_port()
    error = await failure(f"redis://127.0.0.1:{port}")
    assert isinstance(error, StoreUnavailableError)
    assert f"127.0.0.1:{port}" in str(error)
    assert "refused" in str(error).lower()


async def test_a_server_that_accepts_and_says_nothing_costs_the_connect_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        error = await failure(f"redis://127.0.0.1:{port}?connect_timeout=0.1")
        assert "connecting did not finish within 0.1 s" in str(error)


@pytest.mark.tls
@pytest.mark.skipif(not RedisServer.available(), reason="no redis-server with TLS is installed")
async def test_tls_verifies_the_server_unless_told_not_to() -> None:
    with RedisServer(tls=True, password=CANARY) as server:
        url = server.url("rediss")
        await round_trip(f"{url}?ca_file={server.ca_file}")
        server.flush()
        await round_trip(f"{url}?verify=false")
        error = await failure(url)
        assert isinstance(error, CertificateError)
        assert "the system's certificate authorities" in str(error)
        error = await failure(f"{url}?ca_file={server.ca_file}&server_name=somebody.else")
        assert isinstance(error, CertificateError)
        error = await failure(f"{url}?ca_file=/nonexistent.pem")
        assert isinstance(error, CertificateError)
        assert "the ca_file '/nonexistent.pem' cannot be used: No such file or directory" in str(error)
