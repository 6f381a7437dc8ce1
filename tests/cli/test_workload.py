"""The demo's own tools: each of them finds the mistakes that it is meant to find."""

from __future__ import annotations

import pytest

from lmcache_connect import LocalCPUBackend
from lmcache_connect.cli.demo.workload import BATCH_BYTES, Pattern, Workload, allocate, scrub

MIB = 1 << 20


def test_the_full_chunk_is_that_of_llama() -> None:
    full, partial, groups, small, tiny = Workload.llama("m").kinds
    assert full.chunk.shapes == ((2, 32, 256, 1024),)
    assert [kind.chunk.nbytes for kind in (full, small)] == [32 * MIB, 4 * MIB]
    assert partial.chunk.num_tokens == 100
    assert len(groups.chunk.shapes) == 2
    assert tiny.chunk.nbytes == 128 * 1024


def test_every_chunk_of_a_run_has_a_key_of_its_own_and_no_two_runs_share_one() -> None:
    first, second = (Workload.llama(name, chunks=16) for name in ("one", "two"))
    keys = [
        work.key(kind, index).to_string()
        for work in (first, second)
        for kind in work.kinds
        for index in (*range(kind.count), "absent")
    ]
    assert len(set(keys)) == len(keys)


def test_memory_is_bounded_by_the_batch_however_many_chunks_there_are() -> None:
    work = Workload.llama("m", chunks=256)
    assert work.arena_bytes < BATCH_BYTES + 34 * MIB
    full = work.kinds[0]
    batches = list(full.batches(range(full.count)))
    assert {len(batch) for batch in batches} == {8}
    assert [item for batch in batches for item in batch] == list(range(256))


@pytest.mark.parametrize("nbytes", [1, 7, 100, 64 << 10, (64 << 10) + 1, 3 * MIB + 13])
def test_a_pattern_knows_itself_and_nothing_else(nbytes: int) -> None:
    own, other = memoryview(bytearray(nbytes)), memoryview(bytearray(nbytes))
    Pattern("a").fill(own)
    Pattern("b").fill(other)
    assert Pattern("a").difference(own) is None
    if nbytes > 8:  # the first bytes tell the place, not the key
        assert Pattern("a").difference(other) is not None
    for at in {0, nbytes // 2, nbytes - 1}:
        own[at] ^= 1
        assert Pattern("a").difference(own) == at
        own[at] ^= 1


def test_a_pattern_sees_pieces_that_changed_places() -> None:
    view = memoryview(bytearray(MIB))
    Pattern("a").fill(view)
    piece = 64 << 10
    first, second = bytes(view[:piece]), bytes(view[piece : 2 * piece])
    view[:piece], view[piece : 2 * piece] = second, first
    assert Pattern("a").difference(view) == 0


def test_the_seed_decides_the_bytes() -> None:
    def content(seed: int, generation: int = 0) -> bytes:
        work = Workload.llama("m", seed=seed)
        view = memoryview(bytearray(100))
        work.pattern(work.key(work.kinds[0], 0), generation).fill(view)
        return bytes(view)

    assert content(1) == content(1)
    assert len({content(1), content(2), content(1, 1)}) == 3


def test_scrubbing_leaves_nothing_of_what_was_there_and_holds_nothing() -> None:
    work = Workload.llama("m", layers=1)
    chunk = work.kinds[0].chunk
    with LocalCPUBackend(3 * chunk.nbytes) as backend:
        kept, old = allocate(backend, chunk), allocate(backend, chunk)
        for obj in (kept, old):
            Pattern("a").fill(obj.byte_array)
        old.ref_count_down()
        scrub(backend)
        new = [allocate(backend, chunk) for _ in range(2)]
        assert all(set(obj.byte_array) == {0xA5} for obj in new)
        assert Pattern("a").difference(kept.byte_array) is None, "memory that is held is left alone"
        for obj in (kept, *new):
            obj.ref_count_down()
        assert backend.statistics().reserved == 0
