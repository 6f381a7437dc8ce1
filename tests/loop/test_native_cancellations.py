"""A task that is cancelled in the very turn in which a scope of anyio's ends it is cancelled all the same.

anyio before 4.16 swallows such a cancellation; the connectors that catch one and raise something else always will.
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
    StoreUnavailableError,
)
from lmcache_connect.loop import NativeCancellations
from lmcache_connect.streaming import Crew, Equipment
from lmcache_connect_redis.connector import RedisConnector
from lmcache_connect_redis.protocol.connection import Connection

pytestmark = pytest.mark.asyncio

DEADLINE = 0.02
CONFIG = ConnectorConfig.load(
    operation_timeout=DEADLINE, min_throughput=1 << 40, retries=1, retry_backoff=30, max_local_cpu_bytes=1 << 20
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


@pytest_asyncio.fixture
async def connector() -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager("waiting://", config=CONFIG) as manager:
        manager.register(WaitingAdapter)
        yield manager.create_connector()


def waiting(connector: ManagedConnector) -> Waiting:
    return cast(Waiting, connector.wrapped)


def cancel_later(call: asyncio.Task[Any]) -> None:
    """In this turn of the loop still, when whoever asks has gone on to its next await."""
    asyncio.get_running_loop().call_soon(call.cancel)


async def in_flight(connector: ManagedConnector, operations: int) -> None:
    while connector.in_flight < operations:
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------ the class alone


async def test_a_cancellation_that_somebody_swallowed_is_raised() -> None:
    begun = asyncio.Event()

    async def swallow() -> None:
        cancellations = NativeCancellations()
        cancellations.raise_lost()
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass
        cancellations.raise_lost()

    task = asyncio.ensure_future(swallow())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_scopes_own_cancellation_is_none_that_was_lost() -> None:
    cancellations = NativeCancellations()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await asyncio.sleep(0)
        pytest.fail("the scope did not end")
    cancellations.raise_lost()


async def test_a_cancellation_of_an_enclosing_scope_is_left_to_that_scope() -> None:
    with anyio.CancelScope() as outer:
        cancellations = NativeCancellations()
        outer.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            cancellations.raise_lost()
            raise
    assert outer.cancelled_caught


async def test_a_cancellation_from_before_is_not_told_again() -> None:
    async def clean_up() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancellations = NativeCancellations()
            await asyncio.sleep(0)
            cancellations.raise_lost()
        return "cleaned up"

    task = asyncio.ensure_future(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cleaned up"


async def test_where_no_task_runs_there_is_none_to_be_cancelled() -> None:
    looked = asyncio.get_running_loop().create_future()

    def look() -> None:
        cancellations = NativeCancellations()
        cancellations.raise_lost()
        looked.set_result(None)

    asyncio.get_running_loop().call_soon(look)
    await looked


# -------------------------------------------------------------------------------------------------- where it is used


async def test_a_batch_that_fails_in_the_turn_in_which_it_is_cancelled_is_cancelled(
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


async def test_a_crew_that_fails_in_the_turn_in_which_it_is_cancelled_is_cancelled(valkey_url: str) -> None:
    released = asyncio.Event()

    class Breaking(Crew[Connection]):
        """Three pieces of work. The last one that is begun fails."""

        left = 3

        def unbegun(self) -> int:
            return self.left

        async def serve(self, connection: Connection) -> None:
            self.left -= 1
            if self.left:
                await asyncio.get_running_loop().create_future()
            released.set()
            await asyncio.sleep(0)
            cancel_later(call)
            raise StoreUnavailableError("s", "gone")

    async with ConnectorManager(f"{valkey_url}?pool_size=3", config=CONFIG) as manager:
        redis = cast(RedisConnector, manager.create_connector().wrapped)
        call = asyncio.ensure_future(Breaking(Equipment(redis._transfers, workers=3)).run())
        await released.wait()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_call_cancelled_in_the_turn_in_which_its_deadline_passes_is_cancelled(
    connector: ManagedConnector,
) -> None:
    calls = [asyncio.ensure_future(connector.exists(key)) for key in ("cancelled", "late")]
    await in_flight(connector, 2)
    asyncio.get_running_loop().call_later(DEADLINE, calls[0].cancel)  # due just behind the deadlines
    time.sleep(2 * DEADLINE)  # noqa: ASYNC251 - the loop is held up, so that all of them are due in one turn
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError, OperationTimeoutError]
    assert connector.statistics()["exists"].errors == {"OperationTimeoutError": 1}


async def test_a_call_cancelled_in_the_turn_in_which_its_connector_closes_is_cancelled(
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
