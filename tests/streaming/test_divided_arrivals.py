"""One get whose chunks come from several receivers: room, slots and the end for want of room are those of the get."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from lmcache_connect import ArenaExhaustedError, CorruptRecordError, LocalCPUBackend
from lmcache_connect.contract import CallerMemory
from lmcache_connect.memory import release_all
from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect.streaming import Arrivals, CallersRoom, DividedArrivals, OtherChunkError, RoomLine

pytestmark = pytest.mark.asyncio

MIB = 1 << 20


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(8 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()
        assert made.statistics().leaked_objects == 0


@pytest.fixture
def mebibyte() -> ChunkMetadata:
    return ChunkMetadata.of((MIB,), "uint8")


def arrivals_of(backend: LocalCPUBackend, keys: int) -> Arrivals:
    return Arrivals(keys, RoomLine(backend, 0.05).new_place().new_room())


async def test_shares_fill_the_slots_of_the_whole(backend: LocalCPUBackend, mebibyte: ChunkMetadata) -> None:
    whole = arrivals_of(backend, 5)
    divided = DividedArrivals(whole)
    even, odd = divided.share([0, 2, 4]), divided.share([1, 3])
    made = {}
    for share in (even, odd):
        for slot in range(2):
            made[share.slots[slot]] = share.found[slot] = await share.room.make(mebibyte, slot)
    assert divided.take(even) == [4]
    assert divided.take(odd) == []
    assert {slot: obj for slot, obj in enumerate(whole.found) if obj is not None} == made
    whole.room.release_spare()
    release_all(whole.found)


async def test_what_a_share_has_made_and_not_brought_is_released(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    whole = arrivals_of(backend, 4)
    divided = DividedArrivals(whole)
    share = divided.share([1, 3])
    share.found[0] = await share.room.make(mebibyte, 0)
    await share.room.make(mebibyte, 1)  # its receiver fails in the middle of it
    share.room.make_now(mebibyte, 3)  # and of room that was made ahead
    assert divided.take(share) == [3]
    assert backend.statistics().reserved == MIB
    again = divided.share([3])
    again.found[0] = await again.room.make(mebibyte, 0)
    assert divided.take(again) == []
    assert [obj is not None for obj in whole.found] == [False, True, False, True]
    release_all(whole.found)


async def test_releasing_the_whole_releases_every_share(backend: LocalCPUBackend, mebibyte: ChunkMetadata) -> None:
    whole = arrivals_of(backend, 4)
    divided = DividedArrivals(whole)
    taken, under_way = divided.share([0, 1]), divided.share([2, 3])
    taken.found[0] = await taken.room.make(mebibyte)
    divided.take(taken)
    await under_way.room.make(mebibyte)
    whole.release()
    assert backend.statistics().reserved == 0


async def test_a_share_that_finds_no_room_ends_the_batch_for_all(backend: LocalCPUBackend) -> None:
    whole = arrivals_of(backend, 10)
    divided = DividedArrivals(whole)
    first, second = divided.share([0, 3, 6, 9]), divided.share([1, 2, 4, 5, 7, 8])
    assert first.no_room(2, ArenaExhaustedError(MIB, 0, 8 * MIB)) is True
    assert (whole.wanted, first.wanted, second.wanted) == (6, 2, 4)
    assert whole.room.is_short
    assert first.room.is_short
    assert second.room.is_short
    second.no_room(1, ArenaExhaustedError(MIB, 0, 8 * MIB))
    assert (whole.wanted, first.wanted, second.wanted) == (2, 1, 1)
    second.no_room(5, ArenaExhaustedError(MIB, 0, 8 * MIB))  # later than the end
    assert whole.wanted == 2
    assert divided.share([0, 1, 2, 3]).wanted == 2
    assert divided.take(first) == [0]


async def test_a_chunk_that_never_fits_and_a_damaged_record_are_known(backend: LocalCPUBackend) -> None:
    whole = arrivals_of(backend, 6)
    divided = DividedArrivals(whole)
    share = divided.share([1, 3, 5])
    assert share.no_room(0, ArenaExhaustedError(9 * MIB, 0, 8 * MIB)) is False
    share.corrupt[1] = CorruptRecordError("magic", "it is something else")
    assert divided.take(share) == [5]
    assert set(whole.too_large) == {1}
    assert set(whole.corrupt) == {3}
    assert divided.unknown(range(6)) == [0, 2, 4, 5]


async def test_what_the_shares_hold_counts_when_one_of_them_waits(
    backend: LocalCPUBackend, mebibyte: ChunkMetadata
) -> None:
    """Otherwise they would wait for one another, until the time for that is over."""
    line = RoomLine(backend, 30.0)
    place = line.new_place()
    await place.wait_until_first(MIB)
    whole = Arrivals(9, place.new_room())
    divided = DividedArrivals(whole)
    shares = [divided.share([0, 2, 4, 6, 8]), divided.share([1, 3, 5, 7])]
    for slot in range(8):
        await shares[slot % 2].room.make(mebibyte)
    with pytest.raises(ArenaExhaustedError, match="the batch itself holds all the rest"):
        await shares[0].room.make(mebibyte)
    whole.release()
    place.leave()


async def test_memory_of_a_caller_is_that_of_the_slot_in_the_whole() -> None:
    buffers = [bytearray(4), bytearray(8), bytearray(4)]
    with CallerMemory.of(["a", "b", "c"], buffers, None, writable=True) as memory:
        room = CallersRoom(memory)
        whole = Arrivals(3, room)
        divided = DividedArrivals(whole)
        share = divided.share([1, 2])
        chunk = await share.room.make(ChunkMetadata.of((8,), "uint8"), 0)
        with pytest.raises(OtherChunkError):
            await share.room.make(ChunkMetadata.of((8,), "uint8"), 1)
        [view] = chunk.views_of(0, 8)
        with view:
            view[:] = b"12345678"
        share.found[0] = chunk
        assert divided.take(share) == [2]
        assert room.unfit == {2}
        room.release()
        assert not chunk.is_valid()
    assert buffers == [bytearray(4), bytearray(b"12345678"), bytearray(4)]


async def test_threads_that_find_no_room_at_once_leave_the_earliest_end(backend: LocalCPUBackend) -> None:
    whole = arrivals_of(backend, 400)
    divided = DividedArrivals(whole)
    shares = [divided.share(range(start, 400, 4)) for start in range(4)]
    begin = threading.Barrier(4)

    def find_none(number: int) -> None:
        begin.wait(10)
        for slot in range(99, 10 + number, -1):
            shares[number].no_room(slot, ArenaExhaustedError(MIB, 0, 8 * MIB))

    threads = [threading.Thread(target=find_none, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert whole.wanted == 44
    assert [share.wanted for share in shares] == [11] * 4
