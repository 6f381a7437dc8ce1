"""Ports that a test makes, and that are closed after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from lmcache_connect.engines.jobs import JobPort

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
