"""The sums of the counters of ports."""

from __future__ import annotations

from lmcache_connect.observability.job_counts import JobCounts
from lmcache_connect.observability.job_statistics import JobStatistics


def test_a_job_that_outlives_its_port_is_counted_when_it_ends() -> None:
    counts, port = JobCounts(), JobStatistics()
    counts.begin(port.copy)
    source = counts._sources[0]
    port.kinds["get"].in_flight = 1

    counts.end(source)
    counts.end(source)
    assert counts.total().in_flight == 1

    port.kinds["get"].in_flight, port.kinds["get"].jobs = 0, 1
    assert (counts.total().in_flight, counts.total().kinds["get"].jobs) == (0, 1)
    assert not counts._closing
