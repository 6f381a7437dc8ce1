"""Who may wait for room in the arena, and who releases what it holds instead. No server and no connection is needed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lmcache_connect import ArenaExhaustedError, LocalCPUBackend, MemoryObj
from lmcache_connect.errors import AllocationTimeoutError
from lmcache_connect.memory import release_all
from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect.streaming.room import PlaceInLine, RoomLine

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
# Long beside what a test takes: one that waited for its end would fail.
LONG = 20.0


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(4 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()
        assert made.statistics().leaked_objects == 0


@pytest.fixture
def mebibyte() -> ChunkMetadata:
    return ChunkMetadata.of((MIB,), "uint8")


def taken(backend: LocalCPUBackend, count: int) -> list[MemoryObj]:
    objs = backend.batched_allocate((MIB,), "uint8", count)
    assert objs is not None
    return objs


class Get:
    """A get of `count` chunks, which keeps them, as the adapters do it."""

    def __init__(self, line: RoomLine, metadata: ChunkMetadata, count: int) -> None:
        self.attempts = 0
        self.was_first = False
        self._line = line
        self._metadata = metadata
        self._count = count

    async def run(self) -> list[MemoryObj]:
        return await self._line.serve(self._attempt)

    async def _attempt(self, place: PlaceInLine) -> list[MemoryObj]:
        self.attempts += 1
        self.was_first = place.is_first
        room = place.new_room()
        found: list[MemoryObj] = []
        try:
            for _ in range(self._count):
                found.append(await room.make(self._metadata))
                await asyncio.sleep(0)
        except BaseException:
            release_all(list(found))
            raise
        return found


async def wait_for_a_waiter(backend: LocalCPUBackend) -> None:
    async with asyncio.timeout(LONG):
        while not backend.statistics().waiters:
            await asyncio.sleep(0)


async def test_a_get_that_finds_room_is_attempted_once_and_stands_in_no_line(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    get = Get(RoomLine(backend, LONG), mebibyte, 4)
    found = await get.run()
    assert (get.attempts, get.was_first) == (1, False)
    release_all(list(found))


async def test_a_get_that_finds_no_room_is_attempted_again_as_first_in_line(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    get = Get(RoomLine(backend, LONG), mebibyte, 3)
    kept = taken(backend, 2)
    getting = asyncio.create_task(get.run())
    await wait_for_a_waiter(backend)
    assert (get.attempts, get.was_first) == (2, True)
    release_all(list(kept))
    found = await getting
    assert get.attempts == 2
    release_all(list(found))


async def test_gets_that_wait_in_line_hold_no_room(backend: LocalCPUBackend, mebibyte: ChunkMetadata) -> None:
    line = RoomLine(backend, LONG)
    kept = taken(backend, 2)

    async def get() -> None:
        release_all(list(await Get(line, mebibyte, 3).run()))

    async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(get())
        await wait_for_a_waiter(backend)
        for _ in range(20):
            await asyncio.sleep(0)
        assert backend.statistics().live_objects == 2 + 2  # the kept ones, and those of the first in line
        release_all(list(kept))  # now they are served one after the other


async def test_a_batch_that_can_never_fit_is_refused_at_once_and_leaves_the_line(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    line = RoomLine(backend, LONG)
    get = Get(line, mebibyte, 5)
    async with asyncio.timeout(LONG / 2):
        with pytest.raises(ArenaExhaustedError, match="ask for fewer keys at a time"):
            await get.run()
        release_all(list(await Get(line, mebibyte, 4).run()))


async def test_the_last_of_several_workers_that_wait_for_more_than_there_can_be_is_refused(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    line = RoomLine(backend, LONG)
    kept = taken(backend, 2)

    async def attempt(place: PlaceInLine) -> None:
        await place.wait_until_first(MIB)
        room = place.new_room()
        held = [await room.make(mebibyte) for _ in range(2)]
        waiting = [asyncio.create_task(room.make(mebibyte)) for _ in range(2)]
        await wait_for_a_waiter(backend)
        try:
            with pytest.raises(ArenaExhaustedError):
                await room.make(mebibyte)
        finally:
            release_all([*kept])
            release_all([*held, *[await task for task in waiting]])

    await line.serve(attempt)


async def test_a_cancelled_get_leaves_its_place_to_the_next(backend: LocalCPUBackend, mebibyte: ChunkMetadata) -> None:
    line = RoomLine(backend, LONG)
    kept = taken(backend, 2)
    first, second = (asyncio.create_task(Get(line, mebibyte, 3).run()) for _ in range(2))
    await wait_for_a_waiter(backend)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    release_all(list(kept))
    async with asyncio.timeout(LONG):
        release_all(list(await second))


async def test_a_get_waits_in_line_for_as_long_as_the_settings_say(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    kept = taken(backend, 4)
    first = asyncio.create_task(Get(RoomLine(backend, 0.05), mebibyte, 1).run())
    with pytest.raises(AllocationTimeoutError):  # first in line: nobody releases room
        await first

    line = RoomLine(backend, 0.05)

    async def never_leaves(place: PlaceInLine) -> None:
        await place.wait_until_first(MIB)
        await asyncio.sleep(LONG)

    standing = asyncio.create_task(line.serve(never_leaves))
    await asyncio.sleep(0)
    with pytest.raises(AllocationTimeoutError):  # not first in line
        await Get(line, mebibyte, 1).run()
    standing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await standing
    release_all(list(kept))


async def test_room_for_expected_chunks_serves_a_chunk_of_another_kind_when_the_arena_is_full(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    async def attempt(place: PlaceInLine) -> list[MemoryObj | None]:
        room = place.new_room()
        found = [room.make_now(mebibyte, expected=9), room.make_now(mebibyte, expected=8)]
        assert backend.statistics().live_objects == 3, "room for one more that is expected"
        found += [await room.make(mebibyte), await room.make(mebibyte)]
        assert backend.statistics().live_objects == 4
        assert None not in found
        assert room.make_now(mebibyte, expected=1) is None
        return found

    release_all(await RoomLine(backend, LONG).serve(attempt))


async def test_room_is_made_for_more_expected_chunks_each_time_while_they_are_alike(mebibyte: ChunkMetadata) -> None:
    with LocalCPUBackend(64 * MIB) as backend:

        async def attempt(place: PlaceInLine) -> list[MemoryObj | None]:
            room = place.new_room()
            found, made = list[MemoryObj | None](), list[int]()
            for expected in range(40, 0, -1):
                found.append(room.make_now(mebibyte, expected))
                made.append(backend.statistics().live_objects)
            assert sorted(set(made)) == [1, 3, 7, 15, 31, 40]
            return found

        release_all(await RoomLine(backend, LONG).serve(attempt))


async def test_no_room_is_made_in_vain_for_chunks_whose_kind_changes(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    small = ChunkMetadata.of((4096,), "uint8")

    async def attempt(place: PlaceInLine) -> None:
        room = place.new_room()
        for expected in range(200, 0, -2):
            release_all([room.make_now(mebibyte, expected), room.make_now(small, expected - 1)])

    await RoomLine(backend, LONG).serve(attempt)
    assert backend.statistics().allocations == 200


async def test_a_get_that_is_first_in_line_makes_no_room_for_expected_chunks_which_its_crew_waits_for(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    async def attempt(place: PlaceInLine) -> list[MemoryObj | None]:
        await place.wait_until_first(MIB)
        room = place.new_room()
        found = [room.make_now(mebibyte, expected=9) for _ in range(3)]
        assert backend.statistics().live_objects == 3
        return found

    release_all(await RoomLine(backend, LONG).serve(attempt))


async def test_room_that_is_made_for_chunks_of_another_kind_is_released_first(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    async def attempt(place: PlaceInLine) -> list[MemoryObj | None]:
        room = place.new_room()
        found = [room.make_now(mebibyte, expected=4), room.make_now(mebibyte, expected=3)]
        assert backend.statistics().live_objects == 3
        found.append(room.make_now(replace(mebibyte), expected=2))
        assert backend.statistics().live_objects == 3
        return found

    release_all(await RoomLine(backend, LONG).serve(attempt))


async def test_a_failed_attempt_releases_all_of_its_room_but_what_its_receiver_has_released(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    async def attempt(place: PlaceInLine) -> None:
        room = place.new_room()
        corrupt = await room.make(mebibyte)
        assert room.make_now(mebibyte, expected=2) is not None
        corrupt.ref_count_down()
        room.release()
        room.release()

    await RoomLine(backend, LONG).serve(attempt)
    assert backend.statistics().live_objects == 0
