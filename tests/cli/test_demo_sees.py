"""The demo on stores that are broken on purpose: for each thing that it checks, one store that gets it wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lmcache_connect import ConnectorContext, Key, MemoryFormat, MemoryObj, RemoteConnector, UnsupportedOperationError
from lmcache_connect.contract import Slots
from lmcache_connect.errors import StoreFullError
from lmcache_connect.manager import default_registry
from lmcache_reference_connectors.memory import MemoryConnector, MemoryConnectorAdapter

from .conftest import SMALL, Ran

TINY = 128 << 10


class Sound(MemoryConnector):
    """A store without a fault. The others derive from it."""

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__(context.remote_url.label(), context.local_cpu_backend)
        self.backend = context.local_cpu_backend


class Swaps(Sound):
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        return [*(await super().batched_get(keys))[::-1]]


class ReceivesNothing(Sound):
    async def get(self, key: Key) -> MemoryObj | None:
        found = await super().get(key)
        if found is None:
            return None
        with found:
            return self.backend.allocate(found.get_shapes(), found.get_dtypes(), found.get_memory_format())


class Flattens(Sound):
    async def get(self, key: Key) -> MemoryObj | None:
        found = await super().get(key)
        if found is not None:
            found.shrink(type(found.metadata).of((found.get_size(),), "uint8", MemoryFormat.BINARY))
        return found


class ForgetsTheFormat(Sound):
    async def get(self, key: Key) -> MemoryObj | None:
        found = await super().get(key)
        if found is not None:
            meta = found.metadata
            found.shrink(type(meta).of(list(meta.shapes), list(meta.dtypes), MemoryFormat.UNDEFINED))
        return found


class Loses(Sound):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        pass


class KeepsTheFirst(Sound):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        if not await self.exists(key):
            await super().put(key, memory_obj)


class FindsAnything(Sound):
    async def get(self, key: Key) -> MemoryObj | None:
        return await super().get(key) or self.backend.allocate((128,), "uint8")


class HasEverything(Sound):
    async def exists(self, key: Key) -> bool:
        return True


class HasNothing(Sound):
    async def exists(self, key: Key) -> bool:
        return False


class KeepsEverything(Sound):
    async def remove(self, key: Key) -> bool:
        return True


class RemovesInSilence(Sound):
    async def remove(self, key: Key) -> bool:
        await super().remove(key)
        return False


class Leaks(Sound):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        if not kept and memory_obj.get_size() == TINY:
            memory_obj.ref_count_up()
            kept.append(memory_obj)
        await super().put(key, memory_obj)


class IsFull(Sound):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        if len(self.records) == 3:
            raise StoreFullError("broken://", "no memory left")
        await super().put(key, memory_obj)


class CannotRemove(Sound):
    async def remove(self, key: Key) -> bool:
        raise UnsupportedOperationError(type(self).__name__, "remove")


kept: list[MemoryObj] = []
made: list[Sound] = []


@pytest.fixture
def demo_on(invoke: Callable[..., Ran]) -> Iterator[Callable[..., tuple[Ran, Any]]]:
    """Runs the demo on a connector of the class. Returns its output and its JSON document."""
    made.clear()

    def call(broken: type[Sound], *arguments: str) -> tuple[Ran, Any]:
        class Adapter(MemoryConnectorAdapter):
            schema = "broken://"

            def create_connector(self, context: ConnectorContext) -> RemoteConnector:
                made.append(broken(context))
                return made[-1]

        default_registry.register(Adapter, replace=True)
        ran = invoke("demo", *SMALL, "--json", *arguments, "--url", f"broken://{broken.__name__.lower()}")
        return ran, json.loads(ran.out)

    yield call
    default_registry.unregister("broken")
    for connector in made:
        connector.records.clear()


def test_a_sound_store_passes(demo_on: Callable[..., tuple[Ran, Any]]) -> None:
    ran, found = demo_on(Sound)
    assert (ran.code, found["ok"]) == (0, True)
    assert made[0].records == {}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Swaps, "1 layer, 32 tokens: a chunk came back with other bytes"),
        (ReceivesNothing, "other bytes, first at byte 0"),
        (Flattens, "other shapes, dtypes or format"),
        (ForgetsTheFormat, "other shapes, dtypes or format"),
        (Loses, "a chunk that was put is a miss"),
        (KeepsTheFirst, "a chunk came back with other bytes"),
        (FindsAnything, "a missing key was found"),
        (HasEverything, "holds keys that were never written"),
        (HasNothing, "batched_exists is wrong"),
        (HasNothing, "exists is wrong for a chunk that was put"),
        (HasNothing, "batched_async_contains is wrong"),
        (KeepsEverything, "removed chunks are still there"),
        (RemovesInSilence, "remove says that a chunk that was put is not there"),
    ],
)
def test_a_broken_store_fails_by_name(demo_on: Callable[..., tuple[Ran, Any]], broken: type[Sound], said: str) -> None:
    ran, found = demo_on(broken)
    assert (ran.code, found["ok"]) == (1, False)
    assert any(said in problem for problem in found["problems"]), found["problems"]
    assert found["arena"]["balance"] == 0


def test_a_store_that_claims_to_hold_its_keys_is_not_written_to(demo_on: Callable[..., tuple[Ran, Any]]) -> None:
    _, found = demo_on(HasEverything)
    assert found["bytes_put"] == found["keys"]["written"] == 0
    assert found["kinds"] == []


def test_memory_that_does_not_come_back_makes_it_fail(demo_on: Callable[..., tuple[Ran, Any]]) -> None:
    try:
        ran, found = demo_on(Leaks)
    finally:
        for obj in kept:
            obj.ref_count_down()
        kept.clear()
    assert (ran.code, found["ok"]) == (1, False)
    assert found["arena"]["balance"] == TINY
    assert found["arena"]["objects"] == 1
    assert found["problems"] == {}


def test_a_failure_half_way_leaves_nothing_behind(demo_on: Callable[..., tuple[Ran, Any]]) -> None:
    ran, found = demo_on(IsFull)
    assert ran.code == 2
    assert found == {"ok": False, "error": {"type": "StoreFullError", "message": "broken://: no memory left"}}
    assert ran.err == "error: broken://: no memory left\n"
    assert made[0].records == {}


def test_a_failure_half_way_with_keep_leaves_what_was_stored(demo_on: Callable[..., tuple[Ran, Any]]) -> None:
    ran, _ = demo_on(IsFull, "--keep")
    assert ran.code == 2
    assert len(made[0].records) == 3


def test_a_store_that_cannot_remove_is_not_written_to_unless_asked(demo_on: Callable[..., tuple[Ran, Any]]) -> None:
    ran, _ = demo_on(CannotRemove)
    assert ran.code == 2
    assert "--keep" in ran.err
    assert made[0].records == {}
    ran, found = demo_on(CannotRemove, "--keep")
    assert (ran.code, found["ok"]) == (0, True)
