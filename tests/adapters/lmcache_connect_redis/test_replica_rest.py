"""A replica that has failed is not asked for a while."""

from __future__ import annotations

from lmcache_connect_redis.nodes.replica_rest import ReplicaRest


def test_calls_that_were_under_way_together_begin_one_rest() -> None:
    rest = ReplicaRest()
    assert rest.is_over
    assert [rest.failed() for _ in range(3)] == [True, False, False]
    assert not rest.is_over
    rest.answered()
    assert rest.is_over
    assert rest.failed()


def test_a_replica_that_never_failed_is_asked_by_all() -> None:
    rest = ReplicaRest()
    rest.asked()
    assert rest.is_over
