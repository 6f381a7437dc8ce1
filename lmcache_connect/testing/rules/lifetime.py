"""Rules for wrong arguments and for closing: each mistake has a named error, and closing always ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ...errors import (
    ConnectorClosedError,
    ForeignObjectError,
    InvalidArgumentError,
    InvalidKeyError,
    LMCacheConnectError,
    ReleasedObjectError,
)
from ...memory import LocalCPUBackend, MemoryObj
from ..subject import Subject, check_payload, outcome, release, rule

Call = Callable[[], Coroutine[Any, Any, object]]


class LifetimeRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float
    closes_within: float

    @rule
    async def test_a_key_that_cannot_name_a_chunk_raises_invalid_key(self, subject: Subject) -> None:
        """The key is refused before anything is sent: such a chunk could not be found, listed or removed again."""
        connector = subject.connector
        with subject.chunk("any") as obj:
            for key in ("", "line\nbreak", "nul\0", "lone\ud800", "k" * 5000, 7, None):
                wrong: Any = key
                batch = ["good", wrong]
                calls: tuple[Call, ...] = (
                    partial(connector.get, wrong),
                    partial(connector.put, wrong, obj),
                    partial(connector.exists, wrong),
                    partial(connector.remove, wrong),
                    partial(connector.batched_get, batch),
                    partial(connector.batched_exists, batch),
                    partial(connector.batched_put, batch, [obj, obj]),
                )
                for call in calls:
                    await _expect_error(InvalidKeyError, call, f"the key {str(key)[:20]!r}")

    @rule
    async def test_putting_a_released_chunk_raises_released_object(self, subject: Subject) -> None:
        """Its memory may already hold another chunk."""
        key = subject.key()
        obj = subject.chunk(key)
        obj.ref_count_down()
        put = partial(subject.connector.put, key, obj)
        await _expect_error(ReleasedObjectError, put, "a released chunk")
        with subject.chunk(key) as good:
            put_both = partial(subject.connector.batched_put, [key, key], [good, obj])
            await _expect_error(ReleasedObjectError, put_both, "a batch with a released chunk")
        assert await subject.connector.exists(key) is False, "a released chunk was stored"

    @rule
    async def test_putting_a_chunk_of_another_backend_raises_foreign_object(self, subject: Subject) -> None:
        """A connector sends only from the arena that it was made with, which may be registered with a device."""
        key = subject.key()
        stranger: Any = b"bytes"
        with LocalCPUBackend(1 << 20) as elsewhere:
            obj = elsewhere.allocate((100,), "uint8")
            assert obj is not None
            with obj:
                for foreign in (obj, stranger):
                    call = partial(subject.connector.put, key, foreign)
                    await _expect_error(ForeignObjectError, call, f"a {type(foreign).__name__} of somebody else")
        assert await subject.connector.exists(key) is False, "a chunk of another backend was stored"

    @rule
    async def test_a_batch_of_unequal_lists_raises_invalid_argument(self, subject: Subject) -> None:
        """It is unknown which chunk belongs to which key, so nothing is stored."""
        keys = subject.keys(2)
        with subject.chunk(keys[0]) as obj:
            put = partial(subject.connector.batched_put, keys, [obj])
            await _expect_error(InvalidArgumentError, put, "a batch of two keys and one chunk")
        assert await subject.connector.exists(keys[0]) is False, "a part of a batch that was refused was stored"

    @rule
    async def test_a_closed_connector_raises_connector_closed(self, subject: Subject) -> None:
        """Every call raises it at once. None hangs, and none raises an error of the driver."""
        key = subject.key()
        connector = subject.connector
        await subject.put(key)
        await connector.close()

        async def scan() -> list[str]:
            return [name async for name in connector.scan()]

        with subject.chunk(key) as obj:
            calls: tuple[Call, ...] = (
                partial(connector.get, key),
                partial(connector.put, key, obj),
                partial(connector.exists, key),
                partial(connector.remove, key),
                connector.list,
                connector.ping,
                scan,
                partial(connector.batched_get, [key]),
                partial(connector.batched_exists, [key]),
                partial(connector.batched_put, [key], [obj]),
            )
            for call in calls:
                await _expect_error(ConnectorClosedError, call, "a closed connector")

    @rule
    async def test_closing_twice_is_closing_once(self, subject: Subject) -> None:
        """An exit stack, a shutdown hook and a `finally` clause may all close the same connector."""
        connector = subject.connector
        await subject.put(subject.key())
        for _ in range(2):
            await connector.close()
        await connector.wrapped.close()  # the manager calls it once; other callers may not
        assert connector.is_closed, "is_closed must be True after close()"

    @rule
    async def test_closing_under_load_answers_every_caller_and_ends(self, subject: Subject) -> None:
        """Every `close` waits for the same end. Every operation under way gets its result or a named error."""
        connector = subject.connector
        keys = subject.keys(16)
        nbytes = 64 << 10
        for key in keys:
            await subject.put(key, nbytes)
        getting = [asyncio.create_task(connector.get(key)) for key in keys]
        await asyncio.sleep(0)
        started = time.monotonic()
        closing = [asyncio.create_task(connector.close()) for _ in range(3)]
        for closer in closing:
            failure = await outcome(closer, self.ends_within, "close() while another close() was under way")
            assert failure is None, f"close() under load ended with {failure!r}"
        took = time.monotonic() - started
        assert took < self.closes_within, f"close() under load took {took:.2f} s; expected under {self.closes_within} s"
        results = [
            await outcome(task, self.ends_within, "a get() under way when the connector was closed") for task in getting
        ]
        try:
            for key, result in zip(keys, results, strict=True):
                if isinstance(result, BaseException):
                    assert isinstance(result, ConnectorClosedError), f"a get() at the close ended with {result!r}"
                else:
                    assert result is not None, "a get() at the close answered that its key is not stored"
                    result.ref_count_up()
                    check_payload(result, key, nbytes)
        finally:
            release(results)


async def _expect_error(expected: type[LMCacheConnectError], call: Call, what: str) -> None:
    try:
        result = await call()
    except expected:
        return
    release(result if isinstance(result, list) else [result])
    given = "a chunk" if isinstance(result, MemoryObj) else repr(result)
    raise AssertionError(f"{what} was accepted, with the result {given}; expected {expected.__name__}")
