"""Ports that a test makes, and that are closed after it; and stores that it harms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.testing import FaultProxy, RcloneServer, ValkeyServer

from .stores import KINDS, S3Store, Store, ValkeyStore

OpenPort = Callable[..., JobPort]


@pytest.fixture
def open_port() -> Iterator[OpenPort]:
    """Makes ports, and closes them after the test. No thread of theirs is left then."""
    before = set(threading.enumerate())
    made: list[JobPort] = []

    def make(url: str, **settings: object) -> JobPort:
        made.append(JobPort(url, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for port in made:
        port.close(grace=0)
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in names if name.startswith("lmcache-connect") and "courier" not in name}, names


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Store:
    """A store of each kind, on the session's servers."""
    if request.param == "valkey":
        return ValkeyStore(request.getfixturevalue("valkey_server"))
    return S3Store(request.getfixturevalue("rclone_server"))


@pytest.fixture(params=KINDS)
def own_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store of each kind, on a server of the test's own, which it may stop and kill."""
    if request.param == "valkey":
        with ValkeyServer() as valkey:
            yield ValkeyStore(valkey)
        return
    if not RcloneServer.available():
        pytest.skip("rclone is not installed")
    with RcloneServer() as rclone:
        yield S3Store(rclone)


@pytest.fixture
def proxy(own_store: Store) -> Iterator[FaultProxy]:
    """A proxy in front of `own_store`."""
    with FaultProxy(own_store.server.host, own_store.server.port) as proxy:
        yield proxy
