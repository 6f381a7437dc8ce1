"""Rules for a store that fails: every call says so in time, none invents a miss or a success, and all work again."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import anyio

from ...contract import RemoteConnector
from ...errors import LMCacheConnectError
from ...managed import ManagedConnector
from ...memory import MemoryObj
from ..subject import Subject, check_payload, outcome, release, rule, yield_to_loop

_NBYTES: Final = 1 << 18


class FailureRules:
    """Part of `ConnectorConformance`. They ask the author's own connector where the manager would answer for it."""

    limit: float
    ends_within: float
    fails_within: float

    @rule
    async def test_a_store_that_is_down_is_an_error_and_never_a_miss(self, subject: Subject) -> None:
        """A miss is paid by computing the chunk again, everywhere, and nobody learns that the store is down."""
        async with subject.breakable(False) as store:
            keys = subject.keys(2)
            for key in keys:
                with subject.chunk(key) as obj:
                    await store.connector.put(key, obj)
            with subject.chunk(keys[0]) as obj:
                wrapped = store.connector.wrapped
                await store.fail()
                calls = _calls(subject, wrapped, keys, obj)
                problems = await asyncio.gather(*(self._problem(name, call()) for name, call in calls.items()))
                await store.mend()
            found = [problem for problem in problems if problem]
            assert not found, f"the store is down, and {'; '.join(found)}"

    @rule
    async def test_a_store_that_fails_in_the_middle_gives_chunks_or_errors_and_works_again(
        self, subject: Subject
    ) -> None:
        """What is under way when a store fails ends soon, and whole. Once it is back, so is the connector."""
        async with subject.breakable(False) as store:
            connector = store.connector
            keys, new = subject.keys(6), subject.keys(4, "new")
            for key in keys:
                with subject.chunk(key, _NBYTES) as obj:
                    await connector.put(key, obj)
            for turns, fresh in zip((0, 2, 5, 12), new, strict=True):
                with subject.chunk(fresh, _NBYTES) as obj:
                    putting = asyncio.create_task(connector.put(fresh, obj))
                    getting = [asyncio.create_task(connector.get(key)) for key in keys]
                    fetching = asyncio.create_task(connector.batched_get(keys))
                    await yield_to_loop(turns)
                    await store.fail()
                    what = "a call under way when the store failed"
                    put = await outcome(putting, self.ends_within, what)
                    got = [await outcome(task, self.ends_within, what) for task in getting]
                    batch = await outcome(fetching, self.ends_within, what)
                    await store.mend()
                got += [batch] * len(keys) if isinstance(batch, BaseException) else batch
                try:
                    for key, result in zip(keys * 2, got, strict=True):
                        _check_result(key, result)
                finally:
                    release(got)
                check_failure(put)
                subject.check_nothing_is_held("a call under way when the store failed")
                await until_it_answers(connector, keys[0], self.ends_within)
                if put is None:
                    check_payload(await connector.get(fresh), fresh, _NBYTES)
            for key in keys:
                check_payload(await connector.get(key), key, _NBYTES)

    @rule
    async def test_a_connector_can_be_made_while_the_store_is_down(self, subject: Subject) -> None:
        """An engine starts before its store does, or while it restarts. The first call connects."""
        async with subject.breakable(False) as store:
            key = subject.key()
            with subject.chunk(key) as obj:
                await store.connector.put(key, obj)
            await store.fail()
            try:
                made = await store.another()
            except Exception as error:
                raise AssertionError(
                    f"no connector can be made while the store is down: {error!r}; connect in the first call that "
                    "needs it"
                ) from error
            finally:
                await store.mend()
            await until_it_answers(made, key, self.ends_within)
            check_payload(await made.get(key), key, 4096)
            await made.close()

    async def _problem(self, name: str, call: Coroutine[Any, Any, str | None]) -> str | None:
        """What is wrong about the end of a call whose store is down; None where it raised in time."""
        started = time.monotonic()
        # A connector that repeats by itself learns of this limit from seconds_left(). It is cancelled a little later.
        task = asyncio.create_task(_limited(call, self.fails_within))
        result = await outcome(task, self.fails_within + 0.5, f"{name}() of a store that is down, although cancelled,")
        took = time.monotonic() - started
        if (
            isinstance(result, TimeoutError)
            and took >= self.fails_within
            and not isinstance(result, LMCacheConnectError)
        ):
            return (
                f"{name}() still tries after {self.fails_within:g} s; switch the driver's retries off, or stop them "
                "by seconds_left() and set repeats_itself"
            )
        if isinstance(result, BaseException):
            return None
        return result and f"{name}() {result}"


async def _limited(call: Coroutine[Any, Any, str | None], seconds: float) -> str | None:
    with anyio.fail_after(seconds):
        return await call


def _calls(
    subject: Subject, connector: RemoteConnector, keys: list[str], obj: MemoryObj
) -> Mapping[str, Callable[[], Coroutine[Any, Any, str | None]]]:
    """By name, calls that must raise: they return what is wrong with their answer, or None for one that is right.

    What a cache in front of the store knows is right.
    """
    key = keys[0]
    miss = "answered that a stored key is missing; raise an error for whatever is not a miss"

    async def exists() -> str | None:
        return None if await connector.exists(key) else miss

    async def batched_exists() -> str | None:
        return None if all(await connector.batched_exists(keys)) else miss

    async def get() -> str | None:
        obj = await connector.get(key)
        if obj is None:
            return miss
        check_payload(obj, key, 4096)
        return None

    async def batched_get() -> str | None:
        found = await connector.batched_get(keys)
        release(found)
        return miss if len(found) < len(keys) or None in found else None

    async def put() -> str | None:
        await connector.put(key, obj)
        return "was acknowledged; raise an error where nothing was stored"

    async def batched_put() -> str | None:
        await connector.batched_put([key], [obj])
        return "was acknowledged; raise an error where nothing was stored"

    async def remove() -> str | None:
        return f"answered {await connector.remove(key)}; raise an error where nothing was removed"

    async def named() -> str | None:
        return f"named {len(await connector.list())} keys; raise an error where the store does not answer"

    async def ping() -> str | None:
        answer = await connector.ping()
        return "answered 0; ask the store" if answer == 0 else None

    calls = {
        "exists": exists,
        "batched_exists": batched_exists,
        "get": get,
        "batched_get": batched_get,
        "put": put,
        "batched_put": batched_put,
    }
    claimed = {"remove": remove, "list": named, "ping": ping}
    return calls | {name: call for name, call in claimed.items() if getattr(subject.capabilities, name)}


def _check_result(key: str, result: object) -> None:
    if isinstance(result, BaseException):
        check_failure(result)
        return
    assert result is not None, (
        "a get() of a stored key was a miss when the store failed; raise an error for whatever is not a miss"
    )
    assert isinstance(result, MemoryObj)
    result.ref_count_up()
    check_payload(result, key, _NBYTES)


def check_failure(result: object) -> None:
    """Fails for an exception that is not one of this toolkit's. Lets go of what the frames of one that is hold.

    A log record keeps its exception, and with it the frames of an author's put, which may hold a view of the chunk.
    """
    if isinstance(result, BaseException) and not isinstance(result, LMCacheConnectError):
        raise AssertionError(f"a call under way when the store failed ended with {result!r}") from result
    let_go(result)


def let_go(result: object) -> None:
    """Lets go of what the frames of a failure hold."""
    while isinstance(result, BaseException):
        traceback.clear_frames(result.__traceback__)
        result = result.__cause__ or result.__context__


async def until_it_answers(connector: ManagedConnector, key: str, seconds: float) -> None:
    """Waits until a store that was mended answers. Fails after `seconds`."""
    started = time.monotonic()
    while True:
        try:
            found = await connector.get(key)
            release([found])
            assert found is not None, "a key that was stored is gone since the store has failed"
        except LMCacheConnectError as error:
            if time.monotonic() - started > seconds:
                raise AssertionError(
                    f"the store works again for {seconds:g} s, and the connector does not: {error!r}"
                ) from error
            await asyncio.sleep(0.02)  # until the manager's breaker lets a call through
        else:
            return
