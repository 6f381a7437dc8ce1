"""The work of `lmcache-connect bench`: rounds of puts, gets and look-ups, on one store or on two in turn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from ...errors import InvalidArgumentError
from ...managed import ManagedConnector
from ...manager import ConnectorManager
from ...memory import LocalCPUBackend
from ...url import RemoteURL
from ..frame.opening import command_config
from ..frame.own_keys import OwnKeys
from ..frame.room import require_room
from ..frame.sizes import size
from ..frame.store_options import TTL_SECONDS, short_lived
from .measuring import Measuring, Samples
from .plan import LOOKED_UP, Load, Mode, Operation, Plan, by_size
from .plan import plan as make_plan
from .report import BenchReport, Figures, Row

_SLACK: Final = 1.1
"""What a server needs for a chunk besides its bytes, as a factor."""

_LEAST_MEMORY: Final = 1 << 20

_ROWS: Final = 100
"""What is put in one measurement is looked up in others, which come less than so many later."""

OnProgress = Callable[[str, int], None]


class Bounds(NamedTuple):
    """What a benchmark may use. `max_bytes` and `held` are bytes for each store: moved, and kept there at a time.

    `cell_seconds`: after how long no further call of one measurement begins.
    """

    max_bytes: int = 2 << 30
    held: int = 512 << 20
    rounds: int = 3
    cell_seconds: float = 5.0


async def run_bench(
    url: str,
    *,
    against: str | None = None,
    sizes: Sequence[int],
    concurrencies: Sequence[int],
    bounds: Bounds = Bounds(),
    timeout: float = 30.0,
    anyway: bool = False,
    on_progress: OnProgress = lambda _text, _nbytes: None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measures the store at `url`, and in turn with it the one at `against`.

    Writes under keys of its own, which expire where the store can do that, and removes them, also where it is
    cancelled.

    Raises:
        InvalidArgumentError: nothing can be measured within the bounds, or a store has too little room.
        LMCacheConnectError: a URL is wrong, or a store failed.
    """
    planned = make_plan(sizes, concurrencies, max_bytes=bounds.max_bytes, held=bounds.held, rounds=bounds.rounds)
    if not planned.loads:
        raise InvalidArgumentError("--max-bytes", f"{size(bounds.max_bytes)} are too few for any of the sizes")
    urls = [RemoteURL.parse(each) for each in (url, against) if each is not None]
    started = time.perf_counter()
    memory = int(planned.memory * _SLACK) + _LEAST_MEMORY
    async with AsyncExitStack() as stack:
        backend = stack.enter_context(LocalCPUBackend(memory, prefault=True))
        manager = await stack.enter_async_context(
            ConnectorManager(None, None, backend, command_config(operation_timeout=timeout))
        )
        stores: list[Measuring] = []
        ttl = int(max(TTL_SECONDS, _ROWS * bounds.cell_seconds))
        for each in urls:
            connector = await manager.open_connector(short_lived(each, manager.registry, ttl))
            keys = OwnKeys("bench")
            stores.append(Measuring(connector, backend, keys, bounds.cell_seconds))
            stack.push_async_callback(keys.clean_up, connector, on_warning)
            await _check_store(connector, planned, anyway=anyway)
        rows = await _measure(stores, planned, concurrencies, bounds.rounds, on_progress)
        problems: Counter[str] = Counter()
        for store in stores:
            problems.update(store.problems)
    return BenchReport(
        urls[0].redacted(),
        urls[1].redacted() if against is not None else None,
        tuple(rows),
        planned.left_out,
        sum(row.figures.nbytes + (row.other.nbytes if row.other is not None else 0) for row in rows),
        sum(store.verified for store in stores),
        dict(problems),
        time.perf_counter() - started,
    )


async def _check_store(connector: ManagedConnector, planned: Plan, *, anyway: bool) -> None:
    """Asks the store for a key, and where it can tell, how much room it has.

    Raises:
        InvalidArgumentError: it is less than the benchmark keeps there.
    """
    await connector.exists(OwnKeys("bench").absent(0))
    if not anyway:
        await require_room(connector, planned.held, "--held")


async def _measure(
    stores: Sequence[Measuring],
    planned: Plan,
    concurrencies: Sequence[int],
    rounds: int,
    on_progress: OnProgress,
) -> list[Row]:
    rows: list[Row] = []
    looked_up: list[Row] = []
    for _, loads in by_size(planned.loads):
        for load in loads:
            rows += await _measure_load(stores, load, on_progress)
        if not looked_up:
            looked_up = await _measure_look_ups(stores, loads[-1].keys, concurrencies, rounds, on_progress)
        for store in stores:
            await store.keys.remove(store.connector)
    order = list(Operation)
    return sorted([*rows, *looked_up], key=lambda row: order.index(row.operation))


async def _measure_load(stores: Sequence[Measuring], load: Load, on_progress: OnProgress) -> list[Row]:
    puts: list[list[Samples]] = [[] for _ in stores]
    gets: list[list[Samples]] = [[] for _ in stores]
    for store in stores:
        await store.warm_up(load)
    for number in range(load.rounds):
        for at in _turns(len(stores), number):
            store = stores[at]
            on_progress(f"put {size(load.nbytes)}, {load.mode}", 0)
            puts[at].append(await store.put(load, load.chunks))
            on_progress(f"get {size(load.nbytes)}, {load.mode}", puts[at][-1].nbytes)
            gets[at].append(await store.get(load, load.chunks))
            on_progress(f"get {size(load.nbytes)}, {load.mode}", gets[at][-1].nbytes)
    return [
        _row(Operation.PUT, load.nbytes, load.mode, puts),
        _row(Operation.GET, load.nbytes, load.mode, gets),
    ]


async def _measure_look_ups(
    stores: Sequence[Measuring], written: int, concurrencies: Sequence[int], rounds: int, on_progress: OnProgress
) -> list[Row]:
    rows: list[Row] = []
    for mode in (*map(Mode, concurrencies), Mode(batch=LOOKED_UP)):
        found: list[list[Samples]] = [[] for _ in stores]
        for number in range(rounds):
            for at in _turns(len(stores), number):
                on_progress(f"exists, {mode}", 0)
                found[at].append(await stores[at].exists(mode, written))
        rows.append(_row(Operation.EXISTS, 0, mode, found))
    return rows


def _row(operation: Operation, nbytes: int, mode: Mode, rounds: Sequence[Sequence[Samples]]) -> Row:
    figures = [Figures.of(each) for each in rounds]
    return Row(operation, nbytes, mode, figures[0], figures[1] if len(figures) > 1 else None)


def _turns(count: int, number: int) -> Sequence[int]:
    """The order of the stores in a round: the other way round in every other one."""
    return range(count) if number % 2 == 0 else range(count - 1, -1, -1)
