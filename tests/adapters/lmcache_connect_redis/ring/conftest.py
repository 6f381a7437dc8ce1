from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from lmcache_connect import LocalCPUBackend

from .rings import Servers, three_servers

MIB = 1 << 20


@pytest.fixture(scope="package")
def running_servers() -> Iterator[Servers]:
    with three_servers() as servers:
        yield servers


@pytest.fixture
def servers(running_servers: Servers) -> Servers:
    running_servers.flush()
    return running_servers


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(256 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()
