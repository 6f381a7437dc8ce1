"""Which rules of the conformance suite a variant of a connector keeps in `make test`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

RULES_OF_VARIANTS: Final = frozenset(
    {
        "test_a_chunk_is_there_until_its_time_to_live_has_passed",
        "test_a_chunk_of_any_size_round_trips",
        "test_a_chunk_of_some_mebibytes_round_trips",
        "test_a_get_that_is_cancelled_at_any_byte_leaves_nothing_behind",
        "test_a_put_that_is_cancelled_at_any_point_leaves_a_whole_chunk",
        "test_a_store_that_is_down_is_an_error_and_never_a_miss",
        "test_batched_get_has_one_slot_per_key",
        "test_batched_get_into_answers_for_each_key_in_its_place",
        "test_batched_get_of_a_damaged_record_is_a_miss_in_its_own_slot",
        "test_batched_put_from_stores_every_pair_of_any_size",
        "test_batched_put_stores_every_pair",
        "test_closing_under_load_answers_every_caller_and_ends",
        "test_get_gives_the_bytes_shapes_dtypes_and_format_that_put_stored",
        "test_get_into_fills_exactly_the_regions_of_its_caller",
        "test_get_of_a_missing_key_is_none",
        "test_list_names_exactly_the_keys_that_are_stored",
        "test_nothing_of_another_prefix_is_seen",
        "test_remove_tells_whether_the_key_was_there_and_takes_it_away",
        "test_threads_without_a_loop_use_it_through_sync",
        "test_what_another_connector_puts_or_removes_is_seen",
    }
)
"""Those in which variants of one connector are most likely to differ, at least one of each group of rules."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Marks the other rules of a class marked `variant` as `long`: another class runs all on the same kind of store."""
    for item in items:
        name = getattr(item, "originalname", item.name)
        if item.get_closest_marker("variant") is not None and name not in RULES_OF_VARIANTS:
            item.add_marker(pytest.mark.long)
