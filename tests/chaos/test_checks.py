"""What a storm checks, it can also find: each check is shown something wrong."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector, StoreUnavailableError
from lmcache_connect.testing import Lag, StampedValue, ValkeyServer

from .caller import SETTINGS, Caller, LoopCaller, Outcome, ThreadCaller
from .crew import Crew, Orders
from .journal import Journal
from .keeper import Keeper
from .losses import STRUCK, Losses
from .own_memory import OwnMemory

SIZE = 5 * StampedValue.BLOCK + 1000


def filled(key: str = "k", writer: int = 1, version: int = 1, nbytes: int = SIZE) -> bytearray:
    view = bytearray(nbytes)
    asyncio.run(StampedValue.new(key, writer, version, nbytes).fill(memoryview(view)))
    return view


class Careless(Caller):
    """A store that gives one value to every get. `harm` is done to the memory of the call, and then nothing else."""

    def __init__(self, journal: Journal, value: bytearray, harm: Callable[[list[memoryview]], object]) -> None:
        super().__init__("careless", None, journal, [])  # type: ignore[arg-type]  # it is not called
        self._value = value
        self._harm = harm

    async def call(self, operation: str, *args: Any, end_after: float | None = None) -> Outcome:
        done = 0
        for view in args[1]:
            view[:] = self._value[done : done + len(view)]
            done += len(view)
        self.kept = self._harm(args[1])
        return Outcome(True, True)


def below(views: list[memoryview]) -> None:
    """Writes the byte in front of the first region."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(views[0]))
    ctypes.memset(address - 1, 0, 1)


def above(views: list[memoryview]) -> None:
    """Writes the byte behind the last region."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(views[-1]))
    ctypes.memset(address + len(views[-1]), 0, 1)


def swapped(views: list[memoryview]) -> None:
    views[0][0] ^= 1


def keep(views: list[memoryview]) -> memoryview:
    return views[0][:1]


@pytest.mark.parametrize(
    ("harm", "told"),
    [(below, "guard bytes"), (above, "guard bytes"), (keep, "a view"), (swapped, "WRONG VALUE"), (len, None)],
)
def test_memory_of_the_caller_that_is_not_as_it_must_be_is_found(
    harm: Callable[[list[memoryview]], object], told: str | None
) -> None:
    journal = Journal()
    own = OwnMemory(Careless(journal, filled("k"), harm), random.Random(5), lambda rng: None)
    found = asyncio.run(own.get(["k"], [SIZE]))
    if told is None:
        assert not journal.violations
        assert found is not None
        assert found[0] is not None
    else:
        [violation] = journal.violations
        assert told in violation


class _Stub:
    """A connector whose calls do what the test says."""

    def __init__(self) -> None:
        self.sync = self
        self.held: dict[str, object] = {}

    async def ping(self) -> int:
        await asyncio.sleep(0.7)
        return 0

    async def list(self) -> list[str]:
        raise StoreUnavailableError("a store", "gone")

    async def scan(self) -> None:
        raise ValueError("unheard of")


@pytest.mark.asyncio
async def test_a_call_that_is_late_is_a_violation_unless_the_machine_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    stub: object = _Stub()
    busy = Lag()
    for lags, violations in (([Lag()], 1), ([Lag(), busy], 0)):
        journal = Journal()
        caller = LoopCaller("a", stub, journal, lags)  # type: ignore[arg-type]
        monkeypatch.setattr("lmcache_connect.testing.proof.watched_call.seconds_allowed", lambda *call: 0.05)
        begun = time.monotonic()
        call = asyncio.ensure_future(caller.call("ping"))
        await asyncio.sleep(0.6)
        busy.note(begun)
        assert (await call).ok
        assert len(journal.violations) == violations, journal.violations
        assert journal.worst["late, as measured"] > 0.5


@pytest.mark.asyncio
async def test_an_error_of_the_store_is_counted_and_any_other_is_a_violation() -> None:
    stub: object = _Stub()
    journal = Journal()
    caller = LoopCaller("a", stub, journal, [Lag()])  # type: ignore[arg-type]
    assert not (await caller.call("list")).ok
    assert journal.counts["a list StoreUnavailableError"] == 1
    assert not journal.violations
    assert not (await caller.call("scan")).ok
    assert "unheard of" in journal.violations[0]


@pytest.mark.asyncio
async def test_a_keeper_finds_what_was_lost_or_is_old_or_anothers() -> None:
    with LocalCPUBackend(16 << 20) as backend:
        async with ConnectorManager("memory://", local_cpu_backend=backend, config=SETTINGS) as manager:
            connector = manager.create_connector()
            journal = Journal()
            caller = LoopCaller("calm", connector, journal, [Lag()])
            keeper = Keeper(caller, backend, random.Random(3), "me", stray=0.0, largest=1 << 20)
            for _ in range(60):
                await keeper.step()
            assert not journal.violations
            assert journal.counts["values verified"]
            while len(journal.violations) < 2:  # again where the keeper has put something else in its place
                other = await backend.allocate_async((5000,), "uint8")
                await StampedValue.new(keeper.keys[0], 5, 5, 5000).fill(other.byte_array)
                await connector.put(keeper.keys[0], other)
                other.ref_count_down()
                for key in keeper.keys[1:]:
                    await connector.remove(key)
                await keeper.step()
            assert any("of writer 5" in text or "LOST" in text for text in journal.violations)


def test_a_crew_that_leaves_descriptors_is_told(tmp_path: Path, valkey_url: str) -> None:
    orders = Orders(
        name="main",
        life=0,
        seed=1,
        urls={"calm": valkey_url},
        ends=time.monotonic() + 0.2,
        arena=8 << 20,
        largest=1 << 20,
        directory=str(tmp_path),
        writes=0.5,
        keeps=False,
        elsewhere=False,
        pause=0.01,
    )
    journal = Journal(orders.journal_path())
    asyncio.run(Crew(orders, journal).run())
    assert not journal.violations
    saved = json.loads(orders.journal_path().read_text(encoding="utf-8"))
    assert any(what.startswith("calm ") for what in saved["counts"]), "each actor makes a call, however late it is"
    if not Path("/proc/self/fd").exists():
        return
    left: list[int] = []

    class Careless(Crew):
        async def _act(self, connectors: dict[str, ManagedConnector], backend: LocalCPUBackend) -> None:
            await super()._act(connectors, backend)
            left.append(os.open("/dev/null", os.O_RDONLY))

    journal = Journal()
    asyncio.run(Careless(orders, journal).run())
    os.close(left[0])
    [violation] = journal.violations
    assert "descriptors at the end" in violation


def test_a_sync_call_that_is_ended_early_is_counted_as_such() -> None:
    with ConnectorManager("memory://", config=SETTINGS) as manager:
        journal = Journal()
        caller = ThreadCaller("calm", manager.create_connector(), journal, [Lag()])
        assert asyncio.run(caller.call("exists", "k")).value is False
        assert journal.counts["calm sync.exists ok"] == 1


def test_journals_add_up(tmp_path: Path) -> None:
    one, both = Journal(tmp_path / "one.json"), Journal()
    one.count("puts", 2)
    one.took("put", 0.5)
    one.took("put", 1.0)
    one.measure("late", 0.25)
    one.violate("lost")
    for _ in range(2):
        both.merge(json.loads((tmp_path / "one.json").read_text()))
    assert both.counts == {"puts": 4, "violations": 2}
    assert both.violations == ["lost", "lost"]
    assert both.worst == {"late": 0.25}
    assert both.percentile("put", 0.5) == pytest.approx(0.5, rel=0.1)
    assert both.percentile("put", 1.0) == pytest.approx(1.0, rel=0.1)


def test_a_key_may_be_gone_after_a_kill_or_a_damage_and_not_before(tmp_path: Path) -> None:
    losses, begun = Losses(tmp_path / "kills"), time.monotonic()
    assert not losses.may_be_gone("k", begun)
    losses.note_kill()
    assert losses.may_be_gone("k", begun)
    assert not losses.may_be_gone("k", time.monotonic())

    class During:
        def eval(self, *args: object) -> int:
            assert losses.may_be_gone("k", time.monotonic() + 100), "whatever is put meanwhile may be damaged"
            return 1

    assert losses.damage(During(), "k", 7)
    assert not losses.may_be_gone("k", time.monotonic())
    assert losses.may_be_gone("k", begun)


@pytest.mark.asyncio
@pytest.mark.parametrize("nbytes", [2048, 6 << 20])
async def test_a_damage_changes_one_byte_of_what_is_there_and_makes_nothing(
    valkey_server: ValkeyServer, valkey_url: str, tmp_path: Path, nbytes: int
) -> None:
    losses = Losses(tmp_path / "kills")
    with valkey_server.client() as client, LocalCPUBackend(8 << 20) as backend:
        async with ConnectorManager(valkey_url, local_cpu_backend=backend, config=SETTINGS) as manager:
            connector = manager.create_connector()
            assert not losses.damage(client, "k", 500)
            assert client.dbsize() == 0
            with await backend.allocate_async((nbytes,), "uint8") as obj:
                await connector.put("k", obj)
            assert losses.damage(client, "k", 500)
            assert await connector.get("k") is None
            assert connector.statistics()["get"].misses["corrupt:checksum"] == 1


@pytest.mark.asyncio
async def test_a_keeper_takes_a_chunk_for_lost_unless_the_store_has_lost_it(tmp_path: Path) -> None:
    losses = Losses(tmp_path / "kills")
    for excused in (True, False):
        with LocalCPUBackend(16 << 20) as backend:
            async with ConnectorManager("memory://", local_cpu_backend=backend, config=SETTINGS) as manager:
                connector = manager.create_connector()
                journal = Journal()
                caller = LoopCaller(STRUCK, connector, journal, [Lag()])
                keeper = Keeper(caller, backend, random.Random(3), "me", 0.0, 1 << 20, may_be_gone=losses.may_be_gone)
                for _ in range(100):
                    await keeper.step()
                    if excused:
                        losses.note_kill()
                    await connector.batched_remove(keeper.keys)
                assert bool(journal.violations) is not excused, journal.violations
