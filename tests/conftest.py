"""The whole run: which tests `make test` leaves to `make test-long`, beside those that are marked `long`: repetitions.

A class marked `variant` runs some rules of the conformance suite. A test with several parameters runs so many of their
combinations that each value of each parameter occurs; with the marker `all_combinations` it runs all. In a module
marked `in_turn`, the tests take the values of their fixtures in turn, such as a thread, the loop, a thread: each test
runs on one of them.
"""

from __future__ import annotations

import gc
import signal
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import pytest

Value: TypeAlias = tuple[int, str]
"""The position of a parameter, and the name that pytest gives to its value."""

# A run in the background of a shell ignores SIGINT, as what it starts does. Tests of interrupts need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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

RULES_OF_LARGE_CHUNKS: Final = frozenset(
    {
        "test_a_chunk_of_32_mebibytes_does_not_block_the_event_loop",
        "test_a_chunk_of_64_mebibytes_goes_through_memory_of_its_caller",
        "test_a_chunk_of_64_mebibytes_round_trips",
    }
)
"""Each takes about a second of a core."""

SUITES_OF_LARGE_CHUNKS: Final = frozenset(
    {
        "TestAClusterOfThree",
        "TestLMCachesLayout",
        "TestMemoryConnector",
        "TestMinimalByName",
        "TestRclone",
        "TestSmallAndInFrontOfRedis",
        "TestStripedRecordsInAThread",
        "TestValkeyOverTCP",
    }
)
"""One suite for each way in which large chunks are moved. The others leave the rules above to `make test-long`."""

LONG_FILES: Final = frozenset(
    {
        "chaos/test_short_storms.py",
        "examples/test_file_package.py",
        "examples/test_guide.py",
        "cli/test_serve.py",
        "soak/test_soak.py",
        "internal_api_server/test_status_page.py",
        "internal_api_server/test_openapi.py",
        "testing/test_server_groups.py",
        "benchmarks/test_calls.py",
        "together/test_room_for_many.py",
        "lmcache_connect_s3/test_together.py",
        "lmcache_connect_s3/test_buckets.py",
        "lmcache_connect_redis/test_cluster_failover.py",
        "lmcache_connect_redis/test_credentials_that_change.py",
        "lmcache_connect_redis/test_sentinel.py",
        "matrix/test_matrix.py",
    }
)
"""Files with few tests that take long: half a minute and more on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as `long` what repeats a test with another combination, and puts the files that take longest first."""
    combinations: defaultdict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if item.get_closest_marker("variant") is not None and item.originalname not in RULES_OF_VARIANTS:
            item.add_marker(pytest.mark.long)
        suite = "" if item.cls is None else item.cls.__name__
        if item.originalname in RULES_OF_LARGE_CHUNKS and suite not in SUITES_OF_LARGE_CHUNKS:
            item.add_marker(pytest.mark.long)
        if item.get_closest_marker("all_combinations") is None and item.get_closest_marker("long") is None:
            combinations[item.nodeid.partition("[")[0]].append(item)
    _mark_repetitions(combinations)
    sizes = Counter(item.path for item in items)
    # Side by side, a worker takes file after file: one that begins a long file last would end alone.
    items.sort(key=lambda item: (_folder_and_name(item) not in LONG_FILES, -sizes[item.path], str(item.path)))


def _folder_and_name(item: pytest.Item) -> str:
    return f"{item.path.parent.name}/{item.path.name}"


def _mark_repetitions(combinations: Mapping[str, Sequence[pytest.Function]]) -> None:
    used: defaultdict[str, Counter[Value]] = defaultdict(Counter)
    for name, tests in combinations.items():
        if len(tests) > 1:
            for item in _repetitions(tests, used[name.partition("::")[0]]):
                item.add_marker(pytest.mark.long)


def pytest_collection_finish() -> None:
    """Lets the garbage collector pass over the thousands of collected tests, which live to the end.

    Hundreds of tests call `gc.collect()` to prove that nothing is left. Each call took up to half a second otherwise.
    """
    _pass_over_what_lives()


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Does the same after each file, for what it imported and what clients keep, such as botocore's models."""
    file = nodeid.partition("::")[0]
    if file != _last_file[0]:
        _last_file[0] = file
        _pass_over_what_lives()


_last_file: Final = [""]


def _pass_over_what_lives() -> None:
    gc.collect()
    gc.freeze()


def _values(item: pytest.Function) -> list[Value]:
    """The values of a test's parameters, those of fixtures first. One `parametrize` is one parameter."""
    callspec = getattr(item, "callspec", None)
    # pytest's public `id` joins the names with hyphens, which names have as well.
    return [] if callspec is None else list(enumerate(callspec._idlist))


def _repetitions(tests: Sequence[pytest.Function], used: Counter[Value]) -> list[pytest.Function]:
    """Those that are left when each value has occurred. The same ones in every process.

    `used` counts the values in the module, so that tests in turn take those that others had least.
    """
    of_one = len(_values(tests[0]))
    of_fixtures = of_one - len(list(tests[0].iter_markers("parametrize")))
    is_in_turn = tests[0].get_closest_marker("in_turn") is not None
    if of_one == 1 and not is_in_turn:
        return []
    unseen = {value for test in tests for value in _values(test) if not is_in_turn or value[0] >= of_fixtures}

    def worth(test: pytest.Function) -> tuple[int, int]:
        values = _values(test)
        return len(unseen.intersection(values)), -sum(used[value] for value in values)

    left = list(tests)
    while True:
        best = max(left, key=worth)
        left.remove(best)
        unseen.difference_update(_values(best))
        used.update(_values(best))
        if not unseen:
            return left
