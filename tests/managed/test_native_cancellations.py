"""A task that is cancelled in the iteration of the loop in which something else ends it is cancelled nevertheless.

The operation is ended by one cancellation of its task, or by an anyio scope: anyio before 4.16 swallows a cancellation
that comes at the same time. Some connectors catch one and raise something else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import anyio
import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorClosedError,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    Key,
    ManagedConnector,
    MemoryObj,
    OperationTimeoutError,
    RemoteConnector,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect_redis.connector import RedisConnector

pytestmark = pytest.mark.asyncio

DEADLINE = 0.02
CONFIG = ConnectorConfig.load(
    trusted_modules=[__name__],
    operation_timeout=DEADLINE,
    min_throughput=1 << 40,
    retries=1,
    retry_backoff=30,
    max_local_cpu_bytes=1 << 20,
)


class Waiting(RemoteConnector):
    """Every look-up awaits what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Callable[[str], Awaitable[bool]] = self.never

    async def never(self, key: str) -> bool:
        return bool(await asyncio.get_running_loop().create_future())

    async def exists(self, key: Key) -> bool:
        return await self.answer(str(key))

    async def get(self, key: Key) -> MemoryObj | None:
        raise NotImplementedError

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        raise NotImplementedError

    async def list(self) -> list[str]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class WaitingAdapter(ConnectorAdapter):
    schema = "waiting://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return Waiting()


@pytest_asyncio.fixture(params=[True, False], ids=["by one cancellation", "by a scope"])
async def connector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ManagedConnector]:
    """Its calls are ended in one way, or in the other."""
    monkeypatch.setattr(Waiting, "ends_when_cancelled", request.param)
    async with ConnectorManager("waiting://", config=CONFIG) as manager:
        manager.register(WaitingAdapter)
        connector = manager.create_connector()
        assert connector.inside is connector.wrapped  # it is trusted, and so has no task of its own
        yield connector


def waiting(connector: ManagedConnector) -> Waiting:
    return cast(Waiting, connector.wrapped)


def cancel_later(call: asyncio.Task[Any]) -> None:
    """Cancels in this iteration of the loop, when the task that asks has reached its next await."""
    asyncio.get_running_loop().call_soon(call.cancel)


async def in_flight(connector: ManagedConnector, operations: int) -> None:
    while connector.in_flight < operations:
        await asyncio.sleep(0)


# ------------------------------------------------------------------------ connectors that swallow a cancellation


async def test_a_cancellation_that_a_connector_swallows_before_it_fails_is_raised(connector: ManagedConnector) -> None:
    async def answer(key: str) -> bool:
        try:
            return await waiting(connector).never(key)
        except asyncio.CancelledError:
            pass
        raise StoreError("s", "refused")

    waiting(connector).answer = answer
    call = asyncio.ensure_future(connector.exists("k"))
    await in_flight(connector, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_the_cancellation_of_a_scope_in_a_connector_is_not_taken_for_the_callers(
    connector: ManagedConnector,
) -> None:
    async def answer(key: str) -> bool:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await asyncio.sleep(0)
            pytest.fail("the scope did not end")
        raise StoreError("s", "refused")

    waiting(connector).answer = answer
    with pytest.raises(StoreError, match="refused"):
        await connector.exists("k")


async def test_the_cancellation_of_a_scope_around_a_call_is_left_to_that_scope(connector: ManagedConnector) -> None:
    async def answer(key: str) -> bool:
        outer.cancel()
        try:
            return await waiting(connector).never(key)
        except asyncio.CancelledError:
            raise StoreUnavailableError("s", "gone") from None

    waiting(connector).answer = answer
    with anyio.CancelScope() as outer:
        await connector.exists("k")
        pytest.fail("the scope did not end")
    assert outer.cancelled_caught


async def test_a_call_in_a_task_that_was_cancelled_before_ends_as_any_other(connector: ManagedConnector) -> None:
    async def answer(key: str) -> bool:
        await asyncio.sleep(0)
        raise StoreError("s", "refused")

    async def clean_up() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            with pytest.raises(StoreError, match="refused"):
                await connector.exists("k")
        return "cleaned up"

    waiting(connector).answer = answer
    task = asyncio.ensure_future(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cleaned up"


# ----------------------------------------------------------------------- cancellations that arrive with another event


async def test_a_batch_that_fails_in_the_iteration_in_which_it_is_cancelled_is_cancelled(
    connector: ManagedConnector,
) -> None:
    store = waiting(connector)
    released = asyncio.Event()

    async def answer(key: str) -> bool:
        if key != "breaks":
            return await store.never(key)
        await released.wait()
        cancel_later(call)
        raise StoreUnavailableError("s", "gone")

    store.answer = answer
    call = asyncio.ensure_future(store.batched_exists(["k", "breaks", "l"]))
    await asyncio.sleep(0)
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_in_a_lane_that_fails_in_the_iteration_of_its_cancellation_is_cancelled(
    valkey_url: str,
) -> None:
    async with ConnectorManager(valkey_url, config=CONFIG) as manager:
        redis = cast(RedisConnector, manager.create_connector().wrapped)
        calls = [asyncio.ensure_future(redis.exists(key)) for key in "abcd"]
        while not redis._lookups._drivers:
            await asyncio.sleep(0)
        for driver in redis._lookups._drivers:
            assert driver.task is not None
            driver.task.add_done_callback(lambda _: calls[2].cancel())  # in the iteration in which it has failed them
            driver.task.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == [
        "bool",  # alone
        "ConnectorClosedError",
        "CancelledError",
        "ConnectorClosedError",
    ]


async def test_a_call_cancelled_in_the_iteration_in_which_its_deadline_passes_is_cancelled(
    connector: ManagedConnector,
) -> None:
    calls = [asyncio.ensure_future(connector.exists(key)) for key in ("cancelled", "late")]
    await in_flight(connector, 2)
    asyncio.get_running_loop().call_later(DEADLINE, calls[0].cancel)  # due just behind the deadlines
    time.sleep(2 * DEADLINE)  # noqa: ASYNC251 - the loop is held up, so that all of them are due in one iteration
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError, OperationTimeoutError]
    assert connector.statistics()["exists"].errors == {"OperationTimeoutError": 1}


async def test_a_call_cancelled_in_the_iteration_in_which_its_connector_closes_is_cancelled(
    connector: ManagedConnector,
) -> None:
    woken: list[str] = []

    async def answer(key: str) -> bool:
        try:
            return await waiting(connector).never(key)
        except asyncio.CancelledError:
            woken.append(key)
            if len(woken) == 1:  # the close has cancelled the other as well, which has not run since
                calls[1 - int(key)].cancel()
            raise

    waiting(connector).answer = answer
    calls = [asyncio.ensure_future(connector.exists(key)) for key in "01"]
    await in_flight(connector, 2)
    await connector.close(grace=0)
    answers = await asyncio.gather(*(calls[int(key)] for key in woken), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectorClosedError, asyncio.CancelledError]


async def test_a_cancellation_that_a_connector_makes_an_error_of_is_no_error_and_is_not_retried(
    connector: ManagedConnector,
) -> None:
    async def answer(key: str) -> bool:
        try:
            return await waiting(connector).never(key)
        except asyncio.CancelledError:
            raise StoreUnavailableError("s", "gone") from None

    waiting(connector).answer = answer
    call = asyncio.ensure_future(connector.exists("k"))
    await in_flight(connector, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    statistics = connector.statistics()["exists"]
    assert (statistics.retries, statistics.errors) == (0, {})


# ------------------------------------------------------------------------------ what is around a call that is late


def hold_up() -> None:
    """Holds up the loop until every deadline has passed, so that all of them are due in one iteration."""
    time.sleep(2 * DEADLINE)


@pytest.mark.parametrize("seconds", [DEADLINE / 2, DEADLINE * 1.5], ids=["before", "after"])
async def test_a_scope_of_the_callers_that_ends_in_the_iteration_of_the_deadline_catches_its_own(
    connector: ManagedConnector, seconds: float
) -> None:
    task = cast("asyncio.Task[None]", asyncio.current_task())
    with anyio.move_on_after(seconds) as scope:
        asyncio.get_running_loop().call_soon(hold_up)
        await connector.exists("k")
        pytest.fail("the scope did not end")
    assert scope.cancelled_caught
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # nothing is left over


@pytest.mark.parametrize("seconds", [DEADLINE / 2, DEADLINE * 1.5], ids=["before", "after"])
async def test_a_timeout_of_the_callers_in_the_iteration_of_the_deadline_is_told_as_that(
    connector: ManagedConnector, seconds: float
) -> None:
    task = cast("asyncio.Task[None]", asyncio.current_task())
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(seconds):
            asyncio.get_running_loop().call_soon(hold_up)
            await connector.exists("k")
    assert not isinstance(raised.value, StoreError)
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_task_whose_call_was_late_is_not_cancelled_and_makes_the_next_call(connector: ManagedConnector) -> None:
    task = cast("asyncio.Task[None]", asyncio.current_task())
    for _ in range(2):
        with pytest.raises(OperationTimeoutError):
            await connector.exists("k")
        assert task.cancelling() == 0

    async def answer(key: str) -> bool:
        await asyncio.sleep(0)
        return True

    waiting(connector).answer = answer
    assert await connector.exists("k")


async def test_a_task_group_of_the_callers_that_is_cancelled_in_the_iteration_of_the_deadline_ends(
    connector: ManagedConnector,
) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(connector.exists, "k")
        asyncio.get_running_loop().call_later(DEADLINE, group.cancel_scope.cancel)
        await in_flight(connector, 3)
        hold_up()
    assert connector.in_flight == 0


async def test_a_late_call_fails_its_task_group_and_ends_its_siblings(connector: ManagedConnector) -> None:
    siblings: list[asyncio.Task[None]] = []
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            group.create_task(connector.exists("k"))
            siblings.append(group.create_task(asyncio.sleep(30)))
    assert raised.group_contains(OperationTimeoutError)
    assert siblings[0].cancelled()


async def test_an_answer_that_comes_in_the_iteration_of_the_deadline_leaves_no_cancellation_behind(
    connector: ManagedConnector,
) -> None:
    async def answer(key: str) -> bool:
        try:
            return await waiting(connector).never(key)
        except asyncio.CancelledError:
            return True  # the answer was there

    waiting(connector).answer = answer
    assert await connector.exists("k")
    assert cast("asyncio.Task[None]", asyncio.current_task()).cancelling() == 0
    await asyncio.sleep(0)
