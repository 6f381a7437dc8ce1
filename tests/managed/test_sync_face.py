"""`connector.sync` has every operation of the connector."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import pytest

from lmcache_connect import ConnectorManager, ManagedConnector, chunk_of
from lmcache_connect.managed.sync_connector import SyncConnector

LEFT_OUT: Final[dict[str, str]] = {
    "announce": "the manager's announcer calls it",
    "announced": "the internal API calls it",
    "withdraw": "the manager's announcer calls it",
    "discard_corrupt": "the manager calls it, as a hook of the connector inside",
    "remove_damaged": "the same",
    "check": "what watches over connectors calls it; `ping` asks the same",
    "server_facts": "health and the status page ask it",
    "recreate": "the manager calls it, and takes a coroutine function",
}
OTHER_NAMES: Final = {"batched_async_contains": "contains"}
OTHER_PARAMETERS: Final = {"batched_async_contains", "close"}
"""The first has two that mean nothing here, and the last is given its grace period by the settings."""


def operations() -> Iterator[str]:
    """What an application awaits, iterates over or enters on a connector."""
    for name, member in inspect.getmembers(ManagedConnector, inspect.isfunction):
        function = inspect.unwrap(member)
        kind = str(inspect.signature(function).return_annotation)
        if not name.startswith("_") and (
            inspect.iscoroutinefunction(function)
            or inspect.isasyncgenfunction(function)
            or kind.startswith(("AsyncGenerator", "AsyncIterator"))
        ):
            yield name


OPERATIONS: Final = sorted(operations())


def test_the_operations_are_found_by_their_kind() -> None:
    assert {"get", "put", "scan", "iterate", "chunk", "put_all", "batched_get", "get_tensor", "close"} <= {*OPERATIONS}
    assert set(LEFT_OUT) <= set(OPERATIONS)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in LEFT_OUT])
def test_sync_has_the_operation_with_the_same_parameters_and_a_timeout(name: str) -> None:
    ours = inspect.signature(inspect.unwrap(getattr(ManagedConnector, name))).parameters
    theirs = inspect.signature(inspect.unwrap(getattr(SyncConnector, OTHER_NAMES.get(name, name)))).parameters
    assert list(theirs)[-1] == "timeout"
    if name not in OTHER_PARAMETERS:
        assert list(theirs)[:-1] == list(ours)


def test_sync_has_nothing_that_the_connector_lacks() -> None:
    for name, _ in inspect.getmembers(SyncConnector, inspect.isfunction):
        assert name.startswith("_") or name in {*OPERATIONS, *OTHER_NAMES.values()}


def test_a_thread_scans_and_gets_the_leading_hits(valkey_url: str) -> None:
    with ConnectorManager(valkey_url) as manager:
        sync = manager.create_connector().sync
        assert sync.put_all((f"k{number}", chunk_of(numpy_bytes(number))) for number in range(2500)) == 2500
        assert sorted(sync.scan("k")) == sorted(f"k{number}" for number in range(2500))
        assert next(iter(sync.scan("k24"))).startswith("k24")
        assert list(sync.scan_outdated()) == []
        assert sync.remove_outdated([]) == 0
        hits = sync.batched_get_non_blocking("look-up", ["k1", "k2", "absent", "k3"])
        assert [bytes(hit.byte_array) for hit in hits] == [bytes([1]), bytes([2])]
        for hit in hits:
            hit.ref_count_down()


def numpy_bytes(number: int) -> object:
    import numpy

    return numpy.array([number % 256], "u1")
