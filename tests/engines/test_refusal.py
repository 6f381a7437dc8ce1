"""How often a store is asked that refuses the login."""

from __future__ import annotations

from itertools import pairwise

from lmcache_connect.engines.refusal import MOST_SECONDS, Refusal


def test_one_attempt_is_made_after_each_pause_and_each_pause_is_longer() -> None:
    refusal = Refusal(1.0)
    assert refusal.now(0.0) is None
    refusal.begin(0.0, "AuthenticationError", "wrong")
    attempts = []
    for tick in range(2000):
        now = tick / 10
        if refusal.now(now) is None:
            attempts.append(now)
            refusal.begin(now, "AuthenticationError", "wrong")
    assert attempts[:5] == [1.0, 3.0, 7.0, 15.0, 31.0]
    assert {after - before for before, after in pairwise(attempts[5:])} == {MOST_SECONDS}


def test_the_answer_meanwhile_is_the_stores_last_one() -> None:
    refusal = Refusal(1.0)
    refusal.begin(0.0, "AuthenticationError", "first")
    refusal.begin(0.1, "CertificateError", "second")  # a call that was under way
    assert refusal.now(0.9) == ("CertificateError", "second")
    assert refusal.now(1.0) is None


def test_a_call_that_succeeds_ends_it() -> None:
    refusal = Refusal(1.0)
    refusal.begin(0.0, "AuthenticationError", "wrong")
    assert refusal.now(1.0) is None
    refusal.end()
    assert refusal.now(1.1) is None
    refusal.begin(2.0, "AuthenticationError", "wrong")
    assert refusal.now(2.9) is not None
    assert refusal.now(3.0) is None
