"""Whether a request that failed is made again, without a server."""

from __future__ import annotations

import pytest

from lmcache_connect import AuthenticationError, StoreUnavailableError
from lmcache_connect_s3.failures import ExpiredCredentialsError, ThrottledError
from lmcache_connect_s3.retries import Retries, Retry, Tries

BUSY = StoreUnavailableError("s3://bkt", "busy")


def test_a_request_is_made_as_often_as_the_option_says_with_growing_pauses() -> None:
    retries, tries = Retries(4), Tries()
    pauses = []
    while (retry := retries.again(tries, BUSY, is_stale=False)) is not None:
        assert not retry.renews
        pauses.append(retry.pause)
    assert len(pauses) == 3
    assert all(longest / 10 <= pause <= longest for pause, longest in zip(pauses, (0.05, 0.1, 0.2), strict=True))


def test_a_stale_connection_costs_no_attempt_three_times() -> None:
    retries, tries = Retries(1), Tries()
    assert [retries.again(tries, BUSY, is_stale=True) for _ in range(4)] == [Retry(), Retry(), Retry(), None]


def test_expired_credentials_are_renewed_once_and_cost_no_attempt() -> None:
    retries, tries = Retries(2), Tries()
    expired = ExpiredCredentialsError("s3://bkt", "expired")
    assert retries.again(tries, expired, is_stale=False) == Retry(renews=True)
    assert retries.again(tries, BUSY, is_stale=False) is not None
    assert retries.again(tries, expired, is_stale=False) is None


def test_what_no_repetition_helps_is_not_made_again() -> None:
    assert Retries(4).again(Tries(), AuthenticationError("s3://bkt", "denied"), is_stale=False) is None


def test_a_pause_is_as_long_as_the_server_asks_for() -> None:
    retry = Retries(4).again(Tries(), ThrottledError("s3://bkt", "slow down", 7.0), is_stale=False)
    assert retry is not None
    assert retry.pause == pytest.approx(7.0)


def test_sixty_repetitions_use_up_the_budget_and_twenty_successes_give_one_back() -> None:
    retries = Retries(4)
    given = [retries.again(Tries(), BUSY, is_stale=False) for _ in range(61)]
    assert given[59] is not None
    assert given[60] is None
    for _ in range(20):
        retries.succeeded()
    assert retries.again(Tries(), BUSY, is_stale=False) is not None
    assert retries.again(Tries(), BUSY, is_stale=False) is None
