"""One question at a time, whose answer serves all that wait."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from lmcache_connect.errors import ConnectorClosedError, StoreUnavailableError
from lmcache_connect.outside import SharedQuestion

pytestmark = pytest.mark.asyncio


class Asked:
    """Counts the questions, each of which ends when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.answer = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> None:
        self.begun += 1
        await self.answer.wait()
        if self.failure is not None:
            raise self.failure


async def test_all_that_wait_share_one_question_and_ask_again_only_where_that_is_needed() -> None:
    asked = Asked()
    question = SharedQuestion("a test", asked)
    waiting = [asyncio.create_task(question.ask(lambda: asked.begun < 1)) for _ in range(5)]
    await asyncio.sleep(0)
    asked.answer.set()
    await asyncio.gather(*waiting)
    assert asked.begun == 1
    assert not question.is_under_way
    first: list[int] = []
    question.begin()
    await asyncio.gather(*[question.ask(lambda: asked.begun < 3, lambda: first.append(1)) for _ in range(3)])
    assert asked.begun == 3  # the one that was under way, and another one for all three
    assert first == [1]


async def test_a_caller_that_leaves_does_not_end_the_question() -> None:
    asked = Asked()
    question = SharedQuestion("a test", asked)
    leaving, staying = (asyncio.create_task(question.ask(lambda: False)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    asked.answer.set()
    await staying
    assert asked.begun == 1


async def test_what_asking_raises_is_raised_for_all_that_wait() -> None:
    asked = Asked()
    asked.failure = ValueError("no")
    question = SharedQuestion("a test", asked)
    waiting = [asyncio.create_task(question.ask(lambda: False)) for _ in range(2)]
    await asyncio.sleep(0)
    asked.answer.set()
    first, second = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert first is not second  # an error keeps the frames of the call that it was raised in


async def test_a_question_that_failed_keeps_nothing_of_the_calls_that_waited() -> None:
    async def ask() -> None:
        raise StoreUnavailableError("a store", "no")

    question = SharedQuestion("a test", ask)
    buffer = bytearray(10)

    async def call(_view: memoryview) -> None:
        await question.ask(lambda: False)

    gc.disable()
    try:
        with contextlib.suppress(StoreUnavailableError):
            await call(memoryview(buffer))
        buffer.append(1)  # which a view would forbid
    finally:
        gc.enable()


async def test_closing_ends_the_question_and_those_that_wait_learn_why() -> None:
    question = SharedQuestion("a test", Asked())
    waiting = asyncio.create_task(question.ask(lambda: False))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    question.close()
    with pytest.raises(ConnectorClosedError, match="a test"):
        await waiting
