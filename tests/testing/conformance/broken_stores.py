"""Connectors that break the rules for the store as a whole."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator
from typing import Any, Final

from lmcache_connect import (
    ConnectorContext,
    Key,
    ManagedConnector,
    MemoryObj,
    RemoteConnector,
)
from lmcache_connect.testing import ConnectorConformance as Suite

from .broken_cases import Cases
from .sound_connector import Shelf, SoundConnector

CASES: Final = Cases()
breaks = CASES.breaks


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "of a missing key must be False")
class AlwaysRemoves(SoundConnector):
    async def remove(self, key: Key) -> bool:
        await super().remove(key)
        return True


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "of a stored key must be True")
class RemovesInSilence(SoundConnector):
    async def remove(self, key: Key) -> bool:
        await super().remove(key)
        return False


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "a removed key still exists")
class RemovesNothing(SoundConnector):
    async def remove(self, key: Key) -> bool:
        return await self.exists(key)


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "does not support remove")
class CannotRemove(SoundConnector):
    remove = RemoteConnector.remove


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, "more than once")
class ListsTwice(SoundConnector):
    async def list(self) -> list[str]:
        return await super().list() * 2


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, r"list\(\) does not name")
class ListsNone(SoundConnector):
    async def list(self) -> Any:
        return None


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, r"list\(\) does not name \['conformance-.*\*'")
class ListsWhatItEscaped(SoundConnector):
    async def list(self) -> list[str]:
        return [name.replace("*", "%2A") for name in await super().list()]


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, r"after a remove\(\) names")
class ListsWhatItRemembers(SoundConnector):
    async def remove(self, key: Key) -> bool:
        self.gone = [self.name(key)]
        return await super().remove(key)

    async def list(self) -> list[str]:
        return await super().list() + getattr(self, "gone", [])


@breaks(Suite.test_scan_names_each_key_with_the_prefix_once, "which it should not")
class TakesThePrefixForAPattern(SoundConnector):
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in await self.list():
            if fnmatch.fnmatchcase(name, prefix + "*"):
                yield name


@breaks(Suite.test_scan_names_each_key_with_the_prefix_once, "does not name")
class EscapesHalfOfIt(SoundConnector):
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in await self.list():
            if name.startswith(prefix.replace("\\", "\\\\")):
                yield name


@breaks(Suite.test_scan_names_each_key_with_the_prefix_once, "more than once")
class DoesNotSeeRepetitions(ManagedConnector):  # an author's may repeat: a store's cursor does
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for _ in range(2):
            async for name in super().scan(prefix):
                yield name


@breaks(Suite.test_scan_without_a_prefix_names_every_key, "does not name")
class ScansOnePage(SoundConnector):
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in (await self.list())[:10]:
            yield name


@breaks(Suite.test_ping_answers_zero, "answered 1")
class PingsWithOne(SoundConnector):
    async def ping(self) -> int:
        return 1


@breaks(Suite.test_ping_answers_zero, r"support_ping\(\) must be True")
class CannotPing(SoundConnector):
    ping = RemoteConnector.ping


@breaks(Suite.test_a_chunk_is_there_until_its_time_to_live_has_passed, "outlives its")
class NeverForgets(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.ttl = None


@breaks(Suite.test_a_chunk_is_there_until_its_time_to_live_has_passed, "before its time")
class TakesSecondsForMilliseconds(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.ttl = self.ttl and self.ttl / 1000

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await super().put(key, memory_obj)
        await asyncio.sleep(0.001)


@breaks(Suite.test_a_chunk_is_there_until_its_time_to_live_has_passed, r"list\(\) names a chunk that has expired")
class ListsWhatWasPut(SoundConnector):
    async def store(self, name: str, record: bytes) -> None:
        self.put_once = {**getattr(self, "put_once", {}), name: None}
        await super().store(name, record)

    async def list(self) -> list[str]:
        return list(self.put_once)


@breaks(Suite.test_a_chunk_is_there_until_its_time_to_live_has_passed, r"scan\(\) names a chunk that has expired")
class ScansWhatWasPut(ListsWhatWasPut):
    list = SoundConnector.list

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in self.put_once:
            yield name


@breaks(Suite.test_what_another_connector_puts_or_removes_is_seen, r"^get\(\) does not see what another")
class RemembersWhatItRead(SoundConnector):
    """A cache of what was read or put, which only this connector's own puts replace."""

    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.known: dict[str, bytes | None] = {}

    async def load(self, name: str) -> bytes | None:
        if self.known.get(name) is None:
            self.known[name] = await super().load(name)
        return self.known[name]

    async def store(self, name: str, record: bytes) -> None:
        self.known[name] = record
        await super().store(name, record)


@breaks(Suite.test_what_another_connector_puts_or_removes_is_seen, r"^get\(\) does not see what another")
class RemembersMisses(RemembersWhatItRead):
    async def load(self, name: str) -> bytes | None:
        if name not in self.known:
            self.known[name] = await SoundConnector.load(self, name)
        return self.known[name]


@breaks(Suite.test_what_another_connector_puts_or_removes_is_seen, r"^exists\(\) sees a key")
class RemembersWhatExists(RemembersWhatItRead):
    load = SoundConnector.load

    async def exists(self, key: Key) -> bool:
        return self.name(key) in self.known or await super().exists(key)


@breaks(Suite.test_chunks_outlive_their_connector_and_are_seen_by_others, "was stored and is a miss")
class KeepsItToItself(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, Shelf())


@breaks(Suite.test_chunks_outlive_their_connector_and_are_seen_by_others, "was stored and is a miss")
class ClearsUpAtTheEnd(SoundConnector):
    async def close(self) -> None:
        self.shelf.records.clear()
