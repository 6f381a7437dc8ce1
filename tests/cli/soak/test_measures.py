"""What a soak tells of rates, recoveries, budgets and losses is what happened."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from lmcache_connect.cli.soak.budget import Budget
from lmcache_connect.cli.soak.deck import Deck
from lmcache_connect.cli.soak.history import History
from lmcache_connect.cli.soak.rates import Rates
from lmcache_connect.cli.soak.recovery import FaultRun, calm_seconds, recoveries
from lmcache_connect.cli.soak.tally import Tally


def test_a_deck_gives_every_item_before_any_comes_again() -> None:
    deck = Deck("aab", random.Random(1))
    assert sorted(deck.draw() for _ in range(3)) == ["a", "a", "b"]
    assert sorted(deck.draw() for _ in range(3)) == ["a", "a", "b"]


def test_bytes_of_a_call_are_spread_over_the_time_that_it_took() -> None:
    rates = Rates(100.0, 10.0)
    rates.add(102.0, 104.0, 2000)
    rates.add(105.01, 105.02, 50)
    assert rates.bytes_per_second(2, 3) == pytest.approx(1000)
    assert rates.bytes_per_second(3, 4) == pytest.approx(1000, rel=0.01)
    assert rates.bytes_per_second(0, 10) == pytest.approx(205)
    assert rates.calls_per_second(4, 5) + rates.calls_per_second(3, 4) == 1
    rates.add(120.0, 130.0, 7)  # after the end, and not an error
    assert rates.bytes_per_second(0, 10) == pytest.approx(205)


def steady(rates: Rates, start: float, end: float, nbytes: int = 100) -> None:
    for tenth in range(round(start * 10), round(end * 10)):
        begun = rates.begun + tenth / 10
        rates.add(begun + 0.01, begun + 0.09, nbytes)


def test_a_recovery_is_the_time_from_the_end_of_a_fault_to_a_full_second() -> None:
    rates = Rates(0.0, 40.0)
    steady(rates, 0, 10)
    steady(rates, 15, 40)
    [one] = recoveries(rates, [FaultRun("stall", 10, 13)], 40)
    assert one.seconds == pytest.approx(1.8, abs=0.11), "from the first second of which 80 % are full"
    assert one.before == pytest.approx(1000)
    assert one.during == 0


def test_a_fault_from_which_nothing_recovers_has_a_recovery_without_an_end() -> None:
    rates = Rates(0.0, 40.0)
    steady(rates, 0, 10)
    steady(rates, 13, 40, nbytes=70)
    [one] = recoveries(rates, [FaultRun("stall", 10, 13)], 40)
    assert one.seconds is None


def test_after_a_fault_that_took_chunks_the_calls_tell_and_not_the_bytes() -> None:
    rates = Rates(0.0, 40.0)
    steady(rates, 0, 10)
    steady(rates, 13.5, 40, nbytes=0)
    [one] = recoveries(rates, [FaultRun("kill -9", 10, 13, loses=True)], 40)
    assert one.seconds == pytest.approx(0.3, abs=0.11)


def test_a_second_near_a_fault_is_not_calm_and_a_fault_without_calm_before_is_left_out() -> None:
    faults = [FaultRun("stall", 3.5, 5), FaultRun("stall", 12, 13)]
    assert list(calm_seconds(faults, 20)) == [1, 2, 8, 9, 10, 11, 16, 17, 18, 19]
    rates = Rates(0.0, 20.0)
    steady(rates, 0, 20)
    assert [one.fault.begun for one in recoveries(rates, [FaultRun("a", 0.5, 2), *faults], 20)] == [12]
    assert not recoveries(rates, [FaultRun("late", 19, 19.5)], 20), "its recovery was not watched"


def test_a_budget_is_kept_whatever_a_failed_put_has_left() -> None:
    budget = Budget(1000)
    assert budget.fit("a", 700, 10) == 700
    assert budget.fit("b", 700, 10) == 300
    assert budget.fit("c", 700, 10) == 10, "the least is put in any case"
    budget.holds("a", 100)
    assert budget.fit("c", 700, 10) == 600
    assert budget.fit("a", 50, 10) == 50
    assert budget.fit("d", 700, 10) == 10, "the 100 bytes of a may still be there"
    assert budget.most == 1010


def test_a_chunk_may_be_gone_or_older_only_when_a_fault_says_so() -> None:
    history = History(keeps=True, reverts=False)
    assert not history.may_be_gone(5)
    history.loses()
    assert history.may_be_gone(5)
    history.is_well(10)
    assert history.may_be_gone(10)
    assert not history.may_be_gone(11)
    assert not history.may_be_older(5)
    history.goes_back()
    history.is_well(20)
    assert history.may_be_older(15)
    assert history.may_be_gone(15)
    assert not history.may_be_older(21)
    assert History(keeps=False, reverts=True).may_be_gone(5)
    assert History(keeps=False, reverts=True).may_be_older(5)


def test_a_tally_keeps_the_first_findings_and_counts_all() -> None:
    tally = Tally()
    for number in range(100):
        tally.found_wrong(str(number))
        tally.took("get", 0.001 * (number + 1))
    assert (tally.wrong_count, len(tally.wrong), tally.wrong[0]) == (100, 50, "0")
    assert tally.percentile("get", 0.5) == pytest.approx(0.05, rel=0.1)
    assert tally.percentile("never", 0.5) == 0


def test_freed_memory_is_returned_to_the_system() -> None:
    script = (
        "from lmcache_connect.cli.soak.freed_memory import return_freed_memory\n"
        "from lmcache_connect.testing import ResourceUse\n"
        "return_freed_memory()\n"
        "before, fences = ResourceUse.now().rss, []\n"
        "for _ in range(5):\n"
        "    blocks = [bytearray(b'x') * (size << 20) for size in (1, 30, 2, 20)]\n"
        "    fences.append(bytearray(b'x') * (100 << 10))\n"  # what lies behind them keeps a heap from shrinking
        "    del blocks\n"
        "assert ResourceUse.now().rss - before < 8 << 20, ResourceUse.now().rss - before\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
