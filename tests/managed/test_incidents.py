"""Calls that fail by one incident, such as the loss of a connection, are one failure for the circuit breaker."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Final, cast

import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    Key,
    ManagedConnector,
    MemoryObj,
    RemoteConnector,
    StoreUnavailableError,
)
from lmcache_connect.errors import Incident

pytestmark = pytest.mark.asyncio

FAILURES: Final = 3
CONFIG: Final = ConnectorConfig.load(
    retries=0, breaker_failures=FAILURES, breaker_reset=0.05, max_local_cpu_bytes=1 << 20, announce_interval=0
)


class Sharing(RemoteConnector):
    """Every look-up fails by `incident`."""

    incident: Incident | None = None

    async def exists(self, key: Key) -> bool:
        await asyncio.sleep(0)
        error = StoreUnavailableError("s", "the connection was lost")
        error.incident = self.incident
        raise error

    async def get(self, key: Key) -> MemoryObj | None:
        raise NotImplementedError

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        raise NotImplementedError

    async def list(self) -> list[str]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class SharingAdapter(ConnectorAdapter):
    schema = "sharing://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return Sharing()


@pytest_asyncio.fixture
async def connector() -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager("sharing://", config=CONFIG) as manager:
        manager.register(SharingAdapter)
        yield manager.create_connector()


async def fail(connector: ManagedConnector, incident: Incident | None, calls: int = 1) -> None:
    """Makes calls at the same time, all of which fail by one incident."""
    cast(Sharing, connector.wrapped).incident = incident
    answers = await asyncio.gather(*(connector.exists("k") for _ in range(calls)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailableError] * calls


async def test_two_calls_that_fail_by_one_incident_are_one_failure(connector: ManagedConnector) -> None:
    await fail(connector, Incident(), calls=2)
    assert connector._runner.breaker.failures == 1


async def test_the_breaker_opens_by_as_many_incidents_as_it_was_told_however_many_calls_each_has_failed(
    connector: ManagedConnector,
) -> None:
    for _ in range(FAILURES - 1):
        await fail(connector, Incident(), calls=10)
    assert connector.breaker_state.value == "closed"
    await fail(connector, Incident(), calls=10)
    assert connector.breaker_state.value == "open"


async def test_calls_that_fail_without_an_incident_count_each(connector: ManagedConnector) -> None:
    await fail(connector, None, calls=FAILURES)
    assert connector.breaker_state.value == "open"


async def test_every_call_that_an_incident_has_failed_is_in_the_statistics(connector: ManagedConnector) -> None:
    await fail(connector, Incident(), calls=4)
    assert connector.statistics()["exists"].errors == {"StoreUnavailableError": 4}


async def test_a_probe_that_fails_by_an_incident_that_has_counted_opens_the_breaker_for_the_whole_time_again(
    connector: ManagedConnector,
) -> None:
    incident = Incident()
    for each in (incident, *(Incident() for _ in range(FAILURES - 1))):
        await fail(connector, each)
    async with asyncio.timeout(5):
        while connector.breaker_state.value != "half_open":
            await asyncio.sleep(0.01)
    await fail(connector, incident)
    assert connector.breaker_state.value == "open"


async def test_an_error_is_copied_without_its_incident_which_may_be_of_another_process() -> None:
    error = StoreUnavailableError("s", "the connection was lost")
    error.incident = Incident()
    twin = copy.copy(error)  # as pickle does it
    assert twin.incident is None
    assert (str(twin), twin.store) == (str(error), error.store)
