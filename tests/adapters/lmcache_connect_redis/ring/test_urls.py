"""What a ring's URL says, and what is told of a bad one."""

from __future__ import annotations

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, InvalidURLError, LocalCPUBackend
from lmcache_connect.errors import InvalidOptionError

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis-ring://", "no host; expected at least one"),
        ("redis-ring://:secret@", "no host; expected at least one"),
        ("redis-ring://a,b,a", "a:6379 is given twice; expected it once"),
        ("redis-ring://a:1,b:2,a:1", "a:1 is given twice"),
        ("redis-ring://a:0,b", "the port of a is 0"),
        ("redis-ring://a,b/1", "the path '/1'; expected no path: ?db= names the database"),
        ("redis-ring://a,redis://b", "several URLs joined by a comma"),
        ("redis-ring://a,rediss-ring://b", "several URLs joined by a comma"),
        ("redis://a,b", "2 hosts; expected exactly one host[:port]; for several servers: redis-ring://"),
    ],
)
async def test_a_bad_url_says_what_is_wrong(url: str, reason: str) -> None:
    with LocalCPUBackend(1 << 20) as backend:
        async with ConnectorManager(local_cpu_backend=backend) as manager:
            with pytest.raises(InvalidURLError) as refused:
                manager.create_connector(url)
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_a_password_that_cannot_be_read_is_told_when_the_connector_is_made() -> None:
    with LocalCPUBackend(1 << 20) as backend:
        async with ConnectorManager(local_cpu_backend=backend) as manager:
            with pytest.raises(InvalidOptionError, match="password_env"):
                manager.create_connector("redis-ring://a,b?password_env=NO_SUCH_VARIABLE_IS_SET")


@pytest.mark.parametrize("scheme", ["redis-ring", "rediss-ring", "valkey-ring", "valkeys-ring"])
async def test_every_scheme_names_its_servers(scheme: str) -> None:
    with LocalCPUBackend(1 << 20) as backend:
        async with ConnectorManager(local_cpu_backend=backend, config=ConnectorConfig()) as manager:
            connector = manager.create_connector(f"{scheme}://u:secret@b:1,[::1],a?db=3")
            single = scheme.removesuffix("-ring")
            assert [state.server for state in connector.servers()] == [
                f"{single}://[::1]:6379",
                f"{single}://a:6379",
                f"{single}://b:1",
            ]
            assert "secret" not in repr(connector) + connector.store
