"""Short storms: nothing wrong, nothing lost, nothing late, nothing left."""

from __future__ import annotations

import pytest

from .report import table
from .servers import KINDS
from .storm import Storm


@pytest.mark.parametrize("server", ["valkey", pytest.param("redis-tls", marks=[pytest.mark.tls, pytest.mark.long])])
@pytest.mark.timeout(180)  # a busy machine takes its time to end seven processes
def test_a_short_storm_finds_nothing_wrong_lost_late_or_left(server: str) -> None:
    if not KINDS[server].available():
        pytest.skip(f"no {server} server on this machine")
    storm = Storm(server, seconds=6, seed=14, pause=0.03, kill_every=2, grace=False)
    journal = storm.run()
    assert not journal.violations, table(storm, journal)
    assert journal.counts["values verified"] > 10, table(storm, journal)
    assert journal.counts["kills"], table(storm, journal)


@pytest.mark.long
@pytest.mark.parametrize("server", ["valkey"])  # `make chaos` storms on Redis as well
@pytest.mark.timeout(180)
def test_a_short_storm_of_two_thousand_tasks_with_single_calls_finds_nothing_wrong_lost_late_or_left(
    server: str,
) -> None:
    if not KINDS[server].available():
        pytest.skip(f"no {server} server on this machine")
    storm = Storm(server, seconds=9, seed=15, pause=2, kill_every=3, grace=False, tasks=2000)
    journal = storm.run()
    assert not journal.violations, table(storm, journal)
    assert journal.counts["values verified"] > 10, table(storm, journal)
    assert journal.counts["kills of the server"], table(storm, journal)
    assert journal.counts["struck records damaged"], table(storm, journal)
