"""`run_cell`: one fault on one connector; `run_column`: all of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from lmcache_connect.testing import payload

from .callers.caller import Caller
from .cell import NEVER, OPERATIONS, WRONG, Cell, Mode, Operation, Seen, next_works
from .columns import Column
from .faults.fault import AFTER, HANGS, Fault, Trial, judged, name_of
from .footprint import Footprint, warm_up
from .limits import GIVEN_UP, SIZE
from .places.groups import ClusterPlace, RingPlace
from .places.place import Place

_CANDIDATES = 12
_WARM = 15.0


async def run_column(column: Column, faults: Iterable[Fault], tell: Callable[[Cell], None]) -> list[Cell]:
    """Runs the faults that happen to this column, one after the other, on stores that it starts.

    A cell that breaks off is red, and the next one gets stores of its own.
    """
    cells = []
    await asyncio.to_thread(warm_up)
    places: dict[object, Place] = {}
    try:
        for fault in faults:
            make = column.place_for(fault)
            if make is None:
                continue
            if make not in places:
                places[make] = await asyncio.to_thread(make().__enter__)
            try:
                cell = await run_cell(fault, column, places[make])
            except Exception as error:
                traceback.print_exception(error)
                why = f"the cell broke off: {type(error).__name__}: {error}"
                cell = Cell(fault.name, column.name, {}, NEVER, (why,))
                await asyncio.to_thread(places.pop(make).__exit__)
            cells.append(cell)
            tell(cell)
    finally:
        for place in places.values():
            await asyncio.to_thread(place.__exit__)
    return cells


async def run_cell(fault: Fault, column: Column, place: Place) -> Cell:
    """One fault on one connector, in each error mode."""
    await asyncio.to_thread(place.mend)
    before = Footprint.take()
    url = place.url(fault.way)
    callers: dict[Mode, Caller] = {mode: await column.open(url, mode) for mode in column.modes}
    witness = await column.open(url, "raise")
    everyone = [*callers.values(), witness]
    try:
        trial = Trial(place, callers, await _keys(fault, place, callers))
        seen, slowest = await _run(fault, trial, witness)
    finally:
        for caller in everyone:
            await caller.close()
    left = [found for caller in everyone for found in caller.held()]
    left += await before.left()
    await asyncio.to_thread(_end_of_harm, place)
    left += await asyncio.to_thread(place.left)
    return Cell(fault.name, column.name, seen, next_works(slowest), tuple(left))


def _end_of_harm(place: Place) -> None:
    for wire in place.wires:
        wire.disarm()


async def _keys(fault: Fault, place: Place, callers: dict[Mode, Caller]) -> dict[tuple[Mode, Operation], str]:
    """Keys that lie on one server. Those of gets are stored, and read twice, so that every connection is open.

    Of several servers, those of puts are stored as well: that tells where they lie.
    """
    wanted: list[tuple[Mode, Operation]] = [(mode, operation) for mode in callers for operation in OPERATIONS]
    names = [f"matrix-{fault.name}-{number:02}" for number in range(len(wanted))]
    if isinstance(place, ClusterPlace | RingPlace):
        names = await _neighbours(next(iter(callers.values())), place, f"matrix-{fault.name}", len(wanted))
    found = dict(zip(wanted, names, strict=True))
    for mode, caller in callers.items():
        await _stored(caller, found[mode, "get"])
        await _stored(caller, f"{found[mode, 'get']}-warm")
        assert judged(found[mode, "get"], await caller.get(found[mode, "get"]), 0) == "value"
    return found


async def _neighbours(caller: Caller, place: ClusterPlace | RingPlace, name: str, count: int) -> list[str]:
    candidates = [f"{name}-{number:02}" for number in range(_CANDIDATES)]
    holders: dict[object, list[str]] = defaultdict(list)
    for key in candidates:
        await _stored(caller, key)
        holders[await asyncio.to_thread(place.victim, key)].append(key)
    return max(holders.values(), key=len)[:count]


async def _stored(caller: Caller, key: str) -> None:
    """Stores a chunk before the fault, which a group that was mended may take a moment for."""
    if await _works(caller, lambda _: key, 0, _WARM) is None:
        raise AssertionError(f"{key!r} could not be stored before the fault")


async def _run(fault: Fault, trial: Trial, witness: Caller) -> tuple[dict[str, dict[str, Seen]], float | None]:
    seen: dict[str, dict[str, Seen]] = {operation: {} for operation in OPERATIONS}
    waited: list[float | None] = []
    if fault.each:
        for mode, operation in trial.keys:
            await fault.begin(trial, operation)
            try:
                seen[operation][mode] = await fault.measure(trial, mode, operation)
            finally:
                await fault.end(trial)
            waited.append(await _recover(trial, mode))
    else:
        calls = list(trial.keys)
        await fault.begin(trial, None)
        try:
            if len(trial.callers) > 1:
                found = await asyncio.gather(*(fault.measure(trial, mode, operation) for mode, operation in calls))
            else:  # an engine's one thread makes one call after the other
                found = [await fault.measure(trial, mode, operation) for mode, operation in calls]
        finally:
            await fault.end(trial)
        for (mode, operation), each in zip(calls, found, strict=True):
            seen[operation][mode] = each
        waited += await asyncio.gather(*(_recover(trial, mode) for mode in trial.callers))
    for mode in trial.callers:
        seen["put"][mode] = await _looked_at(trial, witness, mode, seen["put"][mode])
    told = seen["put"]
    if "miss" in told and told["raise"].outcome.endswith("Error") and told["miss"].outcome in {"stored", "dropped"}:
        # It returned, as errors are misses. Whether the store had it by then, nobody can tell: as with an error.
        told["miss"] = replace(told["miss"], outcome="returned")
    slowest = None if None in waited else max(each for each in waited if each is not None)
    return seen, slowest


async def _recover(trial: Trial, mode: Mode) -> float | None:
    """The seconds until a put and a get on the same server have worked; None: they have not."""
    key = trial.keys[mode, "get"]
    trial.recoveries += 1
    if isinstance(trial.place, ClusterPlace | RingPlace):
        return await _works(trial.callers[mode], lambda _: key, AFTER, GIVEN_UP)
    # Engines do not store again what is there.
    number = trial.recoveries
    return await _works(trial.callers[mode], lambda attempt: f"{key}-{number}-{attempt}", AFTER, GIVEN_UP)


async def _works(caller: Caller, key_of: Callable[[int], str], version: int, seconds: float) -> float | None:
    """Puts and gets until what was put is found. The seconds that this took: 0 at the first attempt; None: too many.

    With errors as misses, a put that was dropped looks like one that was not. So what lay there before may be found.
    """
    begun = time.monotonic()
    for attempt in itertools.count():
        key = key_of(attempt)
        found = "miss"
        with contextlib.suppress(Exception):
            async with asyncio.timeout(HANGS):
                await caller.put(key, payload(key, SIZE, version))
                data = await caller.get(key)
                found = judged(key, data, version)
                if found == WRONG and judged(key, data, 0, 1, AFTER) == WRONG:
                    raise WrongValueError(key)
        if found == "value":
            # A first call that works may be slow. It is the failures before it that are counted.
            return time.monotonic() - begun if attempt else 0.0
        if time.monotonic() - begun > seconds:
            return None
        await asyncio.sleep(0.02)
    raise AssertionError("itertools.count() has ended")


class WrongValueError(BaseException):
    """A get returned bytes that nobody has stored under its key. Ends the run."""


async def _looked_at(trial: Trial, witness: Caller, mode: Mode, seen: Seen) -> Seen:
    """What has become of a put: whether a caller that did not make it finds it in the store now."""
    key = trial.keys[mode, "put"]
    try:
        found = await witness.get(key)
    except Exception as error:  # it had worked again, and does not now
        return replace(seen, outcome=f"{seen.outcome}, then {name_of(error)}")
    if judged(key, found, 0, 1) == WRONG:
        return replace(seen, outcome=WRONG)
    if seen.outcome == "stored" and judged(key, found, 1) != "value":
        return replace(seen, outcome="dropped")
    return seen
