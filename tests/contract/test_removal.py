"""Whether a damaged record is removed: rare, certain, and never at the expense of the get that found it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    CorruptRecordError,
    Key,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    RemoteConnector,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from lmcache_connect.contract import RemovalPolicy
from lmcache_connect.memory import release_all

pytestmark = pytest.mark.asyncio

OURS = CorruptRecordError("checksum", "it differs", removable=True)
STRANGE = CorruptRecordError("magic", "it is a page")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def answering(answer: bool | BaseException) -> Callable[[], Awaitable[bool]]:
    async def remove() -> bool:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return remove


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    found = [getattr(record, "connect", {}) for record in caplog.records]
    return [facts for facts in found if facts.get("event") == name]


@pytest.mark.parametrize(
    ("error", "answer", "outcome"),
    [
        (OURS, True, "removed"),
        (OURS, False, "changed"),
        (OURS, None, "unsupported"),
        (OURS, UnsupportedOperationError("it", "remove_damaged"), "unsupported"),
        (OURS, StoreUnavailableError("it", "gone"), "failed"),
        (OURS, RuntimeError("a fault of the connector"), "failed"),
        (STRANGE, True, "not_ours"),
    ],
)
async def test_what_becomes_of_a_record_is_counted_and_told_once(
    error: CorruptRecordError,
    answer: bool | BaseException | None,
    outcome: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = RemovalPolicy("store")
    found = await policy.decide("k", error, None if answer is None else answering(answer))
    assert found.value == outcome
    assert policy.counts == {(error.reason, outcome): 1}
    (told,) = events(caplog, "corrupt_record")
    assert (told["store"], told["key"], told["outcome"]) == ("store", "k", outcome)


async def test_ten_attempts_in_a_minute_suspend_removals_for_a_minute_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    policy = RemovalPolicy("store", clock=clock)
    for number in range(10):  # whatever a second look has found
        await policy.decide("k", OURS, answering(number % 2 == 0))
    assert not policy.is_suspended
    for _ in range(500):
        assert (await policy.decide("k", OURS, answering(AssertionError("it was asked")))).value == "suspended"
        clock.now += 0.1
    assert policy.is_suspended
    assert policy.counts == {("checksum", "removed"): 5, ("checksum", "changed"): 5, ("checksum", "suspended"): 500}
    assert len(events(caplog, "removals_suspended")) == 1
    clock.now += 10.5
    assert not policy.is_suspended
    for _ in range(10):
        assert (await policy.decide("k", OURS, answering(True))).value == "removed"
    assert (await policy.decide("k", OURS, answering(True))).value == "suspended"


async def test_attempts_that_lie_more_than_a_minute_apart_are_not_a_burst() -> None:
    clock = Clock()
    policy = RemovalPolicy("store", clock=clock)
    for _ in range(100):
        assert (await policy.decide("k", OURS, answering(True))).value == "removed"
        clock.now += 6.1


async def test_what_is_not_ours_or_cannot_be_removed_suspends_nothing() -> None:
    policy = RemovalPolicy("store")
    for _ in range(50):
        await policy.decide("k", STRANGE, answering(True))
        await policy.decide("k", OURS, None)
    assert (await policy.decide("k", OURS, answering(True))).value == "removed"


async def test_a_page_in_the_place_of_every_record_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    policy = RemovalPolicy("store", clock=clock)
    caplog.set_level("WARNING")
    for _ in range(5000):
        await policy.decide("k", STRANGE, answering(True))
    clock.now += 60
    await policy.decide("k", STRANGE, answering(True))
    lines = events(caplog, "corrupt_record")
    assert len(lines) == 11
    assert lines[-1]["untold"] == 4990
    assert policy.counts == {("magic", "not_ours"): 5001}


async def test_a_removal_that_does_not_end_is_given_up() -> None:
    policy = RemovalPolicy("store", timeout=0.01)
    assert (await policy.decide("k", OURS, asyncio.Event().wait)).value == "failed"


async def test_a_cancelled_decision_is_counted_and_the_cancellation_passes() -> None:
    policy = RemovalPolicy("store")
    deciding = asyncio.create_task(policy.decide("k", OURS, asyncio.Event().wait))
    await asyncio.sleep(0)
    deciding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deciding
    assert policy.counts == {("checksum", "failed"): 1}


class Half(RemoteConnector):
    """Holds a chunk under every key that begins with `good`, and a damaged record under every other one."""

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__(context.config, context.metadata)
        self.backend = context.local_cpu_backend
        self.asked: list[Key] = []
        self.answer = asyncio.Event()

    async def exists(self, key: Key) -> bool:
        return True

    async def get(self, key: Key) -> MemoryObj | None:
        if not str(key).startswith("good"):
            raise CorruptRecordError("checksum", "damaged on purpose", removable=True)
        return await self.backend.allocate_async((100,), "uint8")

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        pass

    async def remove(self, key: Key) -> bool:
        raise AssertionError("a get has called remove()")

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        self.asked.append(key)
        return await self.answer.wait()

    async def list(self) -> list[str]:
        return []

    async def close(self) -> None:
        pass


class HalfAdapter(ConnectorAdapter):
    schema = "half://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return Half(context)


@pytest_asyncio.fixture
async def connector(local_cpu_backend: LocalCPUBackend) -> AsyncIterator[ManagedConnector]:
    config = ConnectorConfig.load(operation_timeout=2, min_throughput=1e12)
    async with ConnectorManager("half://x", None, local_cpu_backend, config) as manager:
        manager.register(HalfAdapter)
        yield manager.create_connector()


def half(connector: ManagedConnector) -> Half:
    assert isinstance(connector.wrapped, Half)
    return connector.wrapped


KEYS = [f"{kind}-{number}" for number in range(20) for kind in ("good", "bad")]


async def test_a_batch_keeps_its_chunks_and_its_deadline_where_no_removal_is_answered(
    connector: ManagedConnector,
) -> None:
    found = await connector.batched_get(KEYS)
    assert [obj is not None for obj in found] == [key.startswith("good") for key in KEYS]
    release_all(found)
    assert len(half(connector).asked) == 10
    assert connector.metrics.removals == {("checksum", "failed"): 10, ("checksum", "suspended"): 10}
    assert connector.statistics()["batched_get"].misses == {"corrupt:checksum": 20}
    assert connector.removals_suspended


async def test_a_batch_that_is_cancelled_amid_a_removal_keeps_no_chunk(
    connector: ManagedConnector, local_cpu_backend: LocalCPUBackend
) -> None:
    getting = asyncio.create_task(connector.batched_get(KEYS))
    while not half(connector).asked:
        await asyncio.sleep(0)
    getting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getting
    assert local_cpu_backend.statistics().live_objects == 0


async def test_a_get_asks_for_a_removal_and_a_recreated_connector_has_the_same_rules(
    connector: ManagedConnector, caplog: pytest.LogCaptureFixture
) -> None:
    half(connector).answer.set()
    for number in range(11):
        assert await connector.get(f"bad-{number}") is None
    assert connector.removals_suspended
    assert connector.metrics.removals == {("checksum", "removed"): 10, ("checksum", "suspended"): 1}
    assert len(events(caplog, "removals_suspended")) == 1


async def test_a_connector_without_a_second_look_removes_nothing(
    connector: ManagedConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Half, "remove_damaged", RemoteConnector.remove_damaged)
    assert await connector.get("bad") is None
    assert await connector.wrapped.remove_damaged("bad", OURS) is False
    assert connector.metrics.removals == {("checksum", "unsupported"): 1}


async def test_a_connector_that_no_manager_made_follows_the_rules_as_well(local_cpu_backend: LocalCPUBackend) -> None:
    bare = object.__new__(Half)
    bare.backend, bare.asked, bare.answer = local_cpu_backend, [], asyncio.Event()
    bare.answer.set()
    for _ in range(12):
        await bare.discard_corrupt("bad", OURS)
    await bare.discard_corrupt("bad", STRANGE)
    assert len(bare.asked) == 10
