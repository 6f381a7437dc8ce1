"""Rules for the store as a whole, one per capability: removing, listing, expiring and sharing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ...managed import ManagedConnector
from ..subject import Subject, check_payload, payload, release, rule

_NBYTES: Final = 4096
_TTL: Final = 0.15


class StoreRules:
    """Part of `ConnectorConformance`."""

    limit: float
    ends_within: float

    @rule
    async def test_remove_tells_whether_the_key_was_there_and_takes_it_away(self, subject: Subject) -> None:
        """Operators clear a tenant with it, and count what was removed."""
        subject.requires("remove")
        key, other = subject.keys(2)
        assert await subject.connector.remove(key) is False, "remove() of a missing key must be False"
        await subject.put(key)
        await subject.put(other)
        assert await subject.connector.remove(key) is True, "remove() of a stored key must be True"
        assert await subject.connector.exists(key) is False, "a removed key still exists"
        assert await subject.read(key) is None, "a removed key still has a chunk"
        assert await subject.connector.remove(key) is False, "remove() of a removed key must be False"
        await subject.expect(other)

    @rule
    async def test_list_names_exactly_the_keys_that_are_stored(self, subject: Subject) -> None:
        """Each key is listed once, exactly as it was given, so that `get` finds it."""
        subject.requires("list")
        keys = [*subject.keys(5), *(subject.own(f"{subject.namespace}{tail}") for tail in ("*", "[x]", " /ä%41"))]
        await _put_all(subject, keys)
        _check_names(await _own_names(subject), keys, "list()")
        if subject.capabilities.remove:
            await subject.connector.remove(keys.pop())
            _check_names(await _own_names(subject), keys, "list() after a remove()")

    @rule
    async def test_scan_names_each_key_with_the_prefix_once(self, subject: Subject) -> None:
        """The prefix is plain text: `*`, `?`, `[` and `\\` have no special meaning."""
        subject.requires("scan")
        space = subject.namespace
        for sign in ("*", "?", "[a-z]", "\\", "\\*", "^", "%", "_", "ä"):
            keys = [subject.own(f"{space}{sign}{index}") for index in range(3)]
            decoys = [subject.own(f"{space}{decoy}") for decoy in ("x0", "xyz", "", f"-{sign}")]
            await _put_all(subject, [*keys, *decoys])
            for connector in (subject.connector.wrapped, subject.connector):
                names = [name async for name in connector.scan(f"{space}{sign}")]
                if connector is not subject.connector:
                    names = sorted(set(names))  # a store's cursor may name a key twice
                _check_names(names, keys, f"scan({space + sign!r})")

    @rule
    async def test_scan_without_a_prefix_names_every_key(self, subject: Subject) -> None:
        """All keys are named, also where there are more than one page of the store holds."""
        subject.requires("scan")
        keys = subject.keys(50)
        await _put_all(subject, keys)
        names = [name async for name in subject.connector.scan() if name.startswith(subject.namespace)]
        _check_names(names, keys, "scan()")

    @rule
    async def test_ping_answers_zero(self, subject: Subject) -> None:
        """`ping` asks the store: without that, a health check says nothing."""
        subject.requires("ping")
        assert subject.connector.support_ping() is True, "support_ping() must be True where ping() asks the store"
        answer = await subject.connector.ping()
        assert answer == 0, f"ping() answered {answer!r}; expected 0"

    @rule
    async def test_a_chunk_is_there_until_its_time_to_live_has_passed(self, subject: Subject) -> None:
        """A cache without expiry fills its store."""
        subject.requires("ttl")
        key, kept = subject.keys(2)
        await subject.put(kept)
        connector = subject.manager.create_connector(subject.ttl_url(_TTL))
        started = time.monotonic()
        with subject.chunk(key) as obj:
            await connector.put(key, obj)
        there = await connector.exists(key)
        assert there or time.monotonic() - started >= _TTL, "a chunk is gone before its time"
        while await connector.exists(key):
            assert time.monotonic() - started < _TTL + self.ends_within, f"a chunk outlives its {_TTL} s"
            await asyncio.sleep(0.01)  # the store gives no sign when it forgets
        assert await connector.get(key) is None, "an expired chunk can still be read"
        if subject.capabilities.list:
            assert key not in await connector.list(), (
                "list() names a chunk that has expired; leave out what get() misses"
            )
        if subject.capabilities.scan:
            names = [name async for name in connector.scan(key)]
            assert key not in names, "scan() names a chunk that has expired; leave out what get() misses"
        await subject.expect(kept)

    @rule
    async def test_chunks_outlive_their_connector_and_are_seen_by_others(self, subject: Subject) -> None:
        """The next process finds what this one stored, which is the purpose of a remote store."""
        subject.requires("shared")
        first, second = subject.keys(2)
        other = await subject.another()
        assert other is not subject.connector, "make_connector() must make a new connector each time"
        await subject.put(first)
        check_payload(await other.get(first), first, _NBYTES)
        with subject.chunk(second) as obj:
            await other.put(second, obj)
        await other.close()
        await subject.expect(second)

    @rule
    async def test_what_another_connector_puts_or_removes_is_seen(self, subject: Subject) -> None:
        """What a connector remembers of the store, hits and misses, is out of date once another process writes."""
        subject.requires("shared")
        key = subject.key()
        one, two = subject.connector, await subject.another()
        await _expect_absent(subject, (one, two), key)  # they may remember that, and must not rely on it
        for version, (writer, reader) in enumerate(((one, two), (two, one), (one, two))):
            nbytes = _NBYTES + version % 2
            with subject.chunk(key, nbytes, version=version) as obj:
                await writer.put(key, obj)
            await _expect_seen(subject, reader, key, payload(key, nbytes, version))
            await _expect_seen(subject, writer, key, payload(key, nbytes, version))
        if subject.capabilities.remove:
            assert await one.remove(key) is True, "remove() of a key that another connector stored must be True"
            await _expect_absent(subject, (one, two), key)
        await two.close()


async def _expect_seen(subject: Subject, reader: ManagedConnector, key: str, expected: bytes) -> None:
    """Waits as long as the connector may be out of date."""

    async def found() -> bytes | None:
        obj = await reader.get(key)
        if obj is None:
            return None
        with obj:
            return bytes(obj.byte_array)

    await _until_seen(subject, lambda: _is(found(), expected), "get() does not see what another connector has put")
    await _until_seen(subject, lambda: reader.exists(key), "exists() does not see what another connector has put")
    slots = await reader.batched_get([key])
    try:
        assert [slot is not None and bytes(slot.byte_array) == expected for slot in slots] == [True], (
            "batched_get() does not see what another connector has put"
        )
    finally:
        release(slots)


async def _expect_absent(subject: Subject, connectors: tuple[ManagedConnector, ...], key: str) -> None:
    for connector in connectors:
        what = "sees a key that is not stored, or that another connector has removed"

        async def misses(connector: ManagedConnector = connector) -> bool:
            obj = await connector.get(key)
            release([obj])
            return obj is None

        async def is_absent(connector: ManagedConnector = connector) -> bool:
            return not await connector.exists(key)

        await _until_seen(subject, misses, f"get() {what}")
        await _until_seen(subject, is_absent, f"exists() {what}")


async def _is(found: Awaitable[object], expected: object) -> bool:
    return await found == expected


async def _until_seen(subject: Subject, look: Callable[[], Awaitable[bool]], what: str) -> None:
    allowed = subject.capabilities.stale_for
    started = time.monotonic()
    while True:
        asked = time.monotonic() - started
        if await look():
            return
        assert asked < allowed, (
            f"{what}, after {asked:.2f} s; a connector that remembers what it read must say in "
            f"Capabilities(stale_for=...) for how long, which is {allowed:g} s here, and look again after that"
        )
        await asyncio.sleep(allowed / 20)  # nothing tells when a connector will look again


async def _put_all(subject: Subject, keys: list[str]) -> None:
    for key in keys:
        await subject.put(key, _NBYTES)


async def _own_names(subject: Subject) -> list[str]:
    """What `list()` returns, without the keys of others, since the store may be shared."""
    return [name for name in await subject.connector.list() if name.startswith(subject.namespace)]


def _check_names(names: list[str], keys: list[str], what: str) -> None:
    missing = sorted(set(keys) - set(names))
    invented = sorted(set(names) - set(keys))
    assert not missing, f"{what} does not name {missing}"
    assert not invented, f"{what} names {invented}, which it should not"
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"{what} names {twice} more than once"
