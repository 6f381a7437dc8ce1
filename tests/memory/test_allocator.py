"""The allocator's decisions: no byte is lost, no two blocks overlap, equal-sized chunks do not fragment."""

from __future__ import annotations

import random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lmcache_connect.memory.allocator import GRANULE, SMALL, BlockAllocator

MIB: Final = 1 << 20


class Checked:
    """An allocator beside a list of what is live, which tells whether its answers can be true."""

    def __init__(self, capacity: int) -> None:
        self.blocks = BlockAllocator(capacity)
        self.live: dict[int, int] = {}

    def gaps(self) -> list[int]:
        found, end = [], 0
        for start, size in sorted(self.live.items()):
            assert start >= end, "two blocks overlap"
            found.append(start - end)
            end = start + size
        assert end <= self.blocks.capacity
        return [gap for gap in [*found, self.blocks.capacity - end] if gap]

    def allocate(self, size: int) -> bool:
        start = self.blocks.allocate(size)
        if start is None:
            return False
        assert start % GRANULE == 0
        assert start not in self.live
        self.live[start] = size
        return True

    def free(self, start: int) -> None:
        self.blocks.free(start, self.live.pop(start))

    def free_all(self) -> None:
        for start in list(self.live):
            self.free(start)

    def check(self) -> None:
        gaps = self.gaps()
        assert self.blocks.free_bytes == sum(gaps)
        assert self.blocks.gaps == len(gaps), "two neighbouring gaps were not merged"
        assert self.blocks.largest_free == max(gaps, default=0)


class AnyOrder(RuleBasedStateMachine):
    """Any allocations and releases, of sizes on both sides of the border between small and large."""

    def __init__(self) -> None:
        super().__init__()
        self.checked = Checked(8 * MIB + 5 * GRANULE)

    @rule(size=st.sampled_from([GRANULE, 3 * GRANULE, SMALL - GRANULE, SMALL, SMALL + GRANULE, 3 * SMALL]))
    def allocate(self, size: int) -> None:
        fits = self.checked.blocks.largest_free >= size
        assert self.checked.allocate(size) is fits

    @precondition(lambda self: self.checked.live)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.checked.free(data.draw(st.sampled_from(sorted(self.checked.live))))

    @invariant()
    def the_answers_are_true(self) -> None:
        self.checked.check()

    def teardown(self) -> None:
        self.checked.free_all()
        assert (self.checked.blocks.gaps, self.checked.blocks.free_bytes) == (1, self.checked.blocks.capacity)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_random_allocations_and_releases_lose_no_byte(seed: int) -> None:
    decide = random.Random(seed)
    checked = Checked(256 * MIB + 12_345)
    for step in range(10_000):
        if checked.live and decide.random() < 0.5:
            checked.free(decide.choice(list(checked.live)))
        else:
            nbytes = decide.choice((decide.randrange(1, 64 << 10), decide.randrange(1, 8 * MIB)))
            checked.allocate(BlockAllocator.rounded(nbytes))
        if step % 250 == 0:
            checked.check()
    checked.check()
    checked.free_all()
    checked.check()
    assert checked.blocks.gaps == 1
    assert checked.blocks.largest_free == checked.blocks.capacity == 256 * MIB + 12_288


@given(
    st.sampled_from([GRANULE, 5 * GRANULE, SMALL - GRANULE, SMALL, SMALL + GRANULE, 3 * SMALL]),
    st.integers(0, 20 * SMALL),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_a_chunk_fits_exactly_while_fewer_than_capacity_over_size_are_live(
    size: int, capacity: int, decide: random.Random
) -> None:
    checked = Checked(capacity)
    most = min(capacity // GRANULE * GRANULE // size, 300)
    if most == 300:
        checked = Checked(most * size + size // 2)
    for _ in range(3 * most + 10):
        if checked.live and decide.random() < 0.4:
            checked.free(decide.choice(list(checked.live)))
        else:
            fits = len(checked.live) < most
            assert checked.allocate(size) is fits
    checked.check()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("chunk", [64 << 10, 4 * MIB, 4 * MIB + GRANULE])
def test_after_a_mixed_phase_equal_sized_chunks_fill_the_arena_completely(seed: int, chunk: int) -> None:
    decide = random.Random(seed)
    checked = Checked(16 * chunk)
    for _ in range(500):
        if checked.live and decide.random() < 0.5:
            checked.free(decide.choice(list(checked.live)))
        else:
            checked.allocate(BlockAllocator.rounded(decide.randrange(1, 2 * chunk)))
    checked.free_all()
    for _ in range(16):
        assert checked.allocate(chunk)
    assert checked.blocks.free_bytes == 0
    assert not checked.allocate(GRANULE)


@pytest.mark.parametrize("interleaved", [True, False])
def test_small_blocks_take_no_more_from_large_ones_than_their_bytes(interleaved: bool) -> None:
    chunk, small, count = 4 * MIB, 16 << 10, 300
    checked = Checked(32 * chunk)
    room = (checked.blocks.capacity - count * small) // chunk
    large = 0
    for _ in range(count):
        assert checked.allocate(small)
        if interleaved and large < room:
            large += checked.allocate(chunk)
    while checked.allocate(chunk):
        large += 1
    assert large == room == 30
    checked.check()


def test_small_blocks_that_come_and_go_beside_live_chunks_leave_their_slots_whole() -> None:
    chunk = 4 * MIB
    checked = Checked(8 * chunk)
    for _ in range(6):
        assert checked.allocate(chunk)
    chunks = sorted(checked.live)
    decide = random.Random(1)
    for _ in range(200):
        assert checked.allocate(decide.randrange(1, 20) * GRANULE)
        if decide.random() < 0.7:
            checked.free(decide.choice([start for start in checked.live if start not in chunks]))
    for start in chunks:  # chunks come and go as well: each finds its slot again
        checked.free(start)
        assert checked.allocate(chunk)
    assert sorted(start for start, size in checked.live.items() if size == chunk) == chunks


def test_memory_that_was_used_before_is_reused_first() -> None:
    blocks = BlockAllocator(64 * MIB)
    first, second = (blocks.allocate(4 * MIB) for _ in range(2))
    assert (first, second) == (0, 4 * MIB)
    for _ in range(5):
        assert first is not None
        blocks.free(first, 4 * MIB)
        assert blocks.allocate(4 * MIB) == first == 0


@pytest.mark.parametrize(
    ("nbytes", "size"), [(1, 4096), (4095, 4096), (4096, 4096), (4097, 8192), (32 * MIB, 32 * MIB)]
)
def test_blocks_are_whole_pages(nbytes: int, size: int) -> None:
    assert BlockAllocator.rounded(nbytes) == size


def test_an_allocator_of_less_than_a_page_has_no_room() -> None:
    blocks = BlockAllocator(GRANULE - 1)
    assert (blocks.capacity, blocks.free_bytes, blocks.largest_free, blocks.gaps) == (0, 0, 0, 0)
    assert blocks.allocate(GRANULE) is None
    assert blocks.allocate(SMALL) is None
