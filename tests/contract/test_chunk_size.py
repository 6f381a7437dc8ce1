"""How large a chunk probably is, before it is seen."""

from __future__ import annotations

from lmcache_connect import CacheMetadata
from lmcache_connect.contract import ChunkSize

MODEL = CacheMetadata("m", 1, 0, kv_shape=(2, 2, 256, 4, 64), kv_dtype="uint8")
FULL = MODEL.full_chunk_bytes


def test_a_known_model_gives_every_estimate_before_any_chunk_is_seen() -> None:
    size = ChunkSize(MODEL)
    assert (size.expected, size.for_budget, size.for_deadline) == (FULL, FULL, FULL)


def test_without_a_model_a_deadline_allows_for_the_largest_usual_chunk_and_a_budget_takes_little() -> None:
    size = ChunkSize()
    assert size.for_deadline == 64 << 20
    assert size.expected == size.for_budget == 1 << 20


def test_the_next_chunk_is_expected_to_be_as_large_as_the_last_one() -> None:
    size = ChunkSize(MODEL)
    for seen in (3 * FULL, FULL // 2, FULL):
        size.observe(seen)
        assert size.expected == seen


def test_a_budget_takes_the_largest_that_was_seen() -> None:
    size = ChunkSize()
    for seen in (4 << 20, 2 << 20, 1 << 10):
        size.observe(seen)
    assert size.for_budget == 4 << 20


def test_smaller_chunks_shorten_no_deadline_and_no_budget() -> None:
    size = ChunkSize(MODEL)
    size.observe(1)
    assert (size.for_budget, size.for_deadline) == (FULL, FULL)


def test_a_chunk_above_the_assumption_lengthens_the_next_deadline() -> None:
    size = ChunkSize()
    size.observe(100 << 20)
    assert size.for_deadline == 100 << 20
