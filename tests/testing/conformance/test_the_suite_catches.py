"""For each rule a connector that breaks it is caught, for the right reason; one that keeps them all passes."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Awaitable, Callable, Iterator

import pytest

from lmcache_connect import ConnectorConfig, LMCacheConnectError, ManagedConnector
from lmcache_connect.testing import Capabilities, ConnectorConformance
from lmcache_connect.testing.subject import Subject, release

from . import (
    broken_batches,
    broken_caller_memory,
    broken_callers,
    broken_chunks,
    broken_damage,
    broken_failures,
    broken_stores,
)
from .broken_cases import Case
from .sound_connector import ShelfSuite, SoundConnector
from .wire_shelf import WireConnector, WireSuite

MODULES = (
    broken_chunks,
    broken_batches,
    broken_stores,
    broken_damage,
    broken_callers,
    broken_failures,
    broken_caller_memory,
)
CASES = [case for module in MODULES for case in module.CASES]
RULES = sorted(name for name in dir(ConnectorConformance) if name.startswith("test_"))


class TestTheSoundConnector(ShelfSuite):
    """Every rule passes for a connector that keeps it: what the broken ones are caught by is what they changed."""


class TestTheDirectConnector(ShelfSuite):
    """So does every rule for one that moves bytes into its callers' memory, and out of it, by itself."""

    made = broken_caller_memory.DirectConnector


@pytest.mark.variant
class TestTheSoundConnectorOverTheWire(WireSuite):
    """So does every rule for a connection."""


class _Impatient(ShelfSuite):
    """The broken ones hang."""

    limit = 8.0
    ends_within = 1.0  # more than the slowest close() takes
    closes_within = 0.3
    fails_within = 0.3

    def __init__(self, case: Case) -> None:
        if issubclass(case.broken, ManagedConnector):
            self.managed = case.broken
        elif issubclass(case.broken, SoundConnector):
            self.made = case.broken
        self.setup_method()

    def config(self) -> ConnectorConfig:
        return ConnectorConfig(operation_timeout=2.0, allocate_timeout=1.0, close_grace=0.05, breaker_reset=0.05)


class BrokenSuite(_Impatient):
    pass


class BrokenWireSuite(_Impatient, WireSuite):
    """On a server, which is what the broken one needs."""


def test_every_rule_has_a_connector_that_breaks_it() -> None:
    assert sorted({case.rule for case in CASES}) == RULES


def test_every_rule_says_what_it_is_for() -> None:
    assert [rule for rule in RULES if not getattr(ConnectorConformance, rule).__doc__] == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("capability", "rule"),
    [
        ("remove", ConnectorConformance.test_remove_tells_whether_the_key_was_there_and_takes_it_away),
        ("list", ConnectorConformance.test_list_names_exactly_the_keys_that_are_stored),
        ("scan", ConnectorConformance.test_scan_names_each_key_with_the_prefix_once),
        ("scan", ConnectorConformance.test_scan_without_a_prefix_names_every_key),
        ("ping", ConnectorConformance.test_ping_answers_zero),
        ("ttl", ConnectorConformance.test_a_chunk_is_there_until_its_time_to_live_has_passed),
        ("shared", ConnectorConformance.test_chunks_outlive_their_connector_and_are_seen_by_others),
        ("raw", ConnectorConformance.test_get_of_a_damaged_record_is_a_miss),
        ("raw", ConnectorConformance.test_batched_get_of_a_damaged_record_is_a_miss_in_its_own_slot),
        ("raw", ConnectorConformance.test_what_may_be_somebody_elses_is_never_removed_by_a_get),
        ("raw", ConnectorConformance.test_get_into_of_a_damaged_record_is_false_in_its_own_place),
        ("raw", ConnectorConformance.test_a_good_record_that_replaced_a_damaged_one_is_never_removed),
    ],
)
async def test_what_is_not_claimed_is_skipped_by_name(
    capability: str, rule: Callable[[ConnectorConformance, Subject], Awaitable[None]]
) -> None:
    suite = ShelfSuite()
    suite.setup_method()
    suite.capabilities = Capabilities(**{**vars(suite.capabilities), capability: False})
    async with suite.opened() as subject:
        with pytest.raises(pytest.skip.Exception, match=f"the capability '{capability}'"):
            await rule(suite, subject)


@pytest.fixture(scope="module")
def lost_chunks() -> Iterator[None]:
    """What the broken ones have lost is collected before another file's test would be told of it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# A connector that loses chunks makes them warn when they are collected; that they are lost is the point.
@pytest.mark.filterwarnings("ignore:a MemoryObj of:ResourceWarning", "ignore:.* was never closed:ResourceWarning")
@pytest.mark.usefixtures("lost_chunks")
@pytest.mark.asyncio
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.broken.__name__}")
async def test_a_broken_connector_is_caught(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # With it, pytest makes the whole diff of what an assertion compares. A rule must not have it made of payloads.
    monkeypatch.setenv("CI", "true")
    suite = BrokenWireSuite(case) if issubclass(case.broken, WireConnector) else BrokenSuite(case)
    try:
        with pytest.raises((AssertionError, LMCacheConnectError), match=case.says):
            async with suite.opened() as subject:
                await getattr(suite, case.rule)(subject)
    except pytest.skip.Exception:
        pytest.fail("the rule was skipped")
    finally:
        release(suite.shelf.kept)
        suite.teardown_method()
