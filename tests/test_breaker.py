"""The circuit breaker: pure decisions, under a clock that the test turns."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_connect.breaker import BreakerState, CircuitBreaker

RESET: Final = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(3, RESET, clock)


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        assert breaker.admit()
        breaker.failed()


def test_a_new_breaker_is_closed_and_admits_everything(breaker: CircuitBreaker) -> None:
    assert breaker.state is BreakerState.CLOSED
    assert breaker.retry_in == 0.0
    assert all(breaker.admit() for _ in range(100))


def test_it_opens_after_as_many_failures_in_a_row_as_it_was_told(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker)
    assert (breaker.state, breaker.failures, breaker.retry_in) == (BreakerState.OPEN, 3, RESET)
    assert not breaker.admit()


def test_a_success_in_between_starts_the_count_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert breaker.admit()
    breaker.succeeded()
    assert breaker.failures == 0
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


def test_an_operation_that_was_given_up_tells_nothing(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert breaker.admit()
    breaker.abandoned()
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 2)
    fail(breaker)
    assert breaker.state is BreakerState.OPEN


def test_it_stays_open_for_the_time_it_was_told(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET - 0.5
    assert (breaker.state, breaker.retry_in) == (BreakerState.OPEN, 0.5)
    assert not breaker.admit()
    clock.now += 0.5
    assert (breaker.state, breaker.retry_in) == (BreakerState.HALF_OPEN, 0.0)


def test_half_open_lets_one_call_through_as_a_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET
    assert breaker.admit()
    assert breaker.state is BreakerState.OPEN
    assert not any(breaker.admit() for _ in range(10))


def test_asking_for_the_state_is_no_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET
    assert [breaker.state for _ in range(3)] == [BreakerState.HALF_OPEN] * 3
    assert breaker.admit()


def test_a_probe_that_succeeds_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET
    assert breaker.admit()
    breaker.succeeded()
    assert (breaker.state, breaker.failures, breaker.retry_in) == (BreakerState.CLOSED, 0, 0.0)
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_that_fails_opens_it_for_the_whole_time_again(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    for failures in (4, 5):
        clock.now += RESET + 1
        assert breaker.admit()
        breaker.failed()
        assert (breaker.state, breaker.failures, breaker.retry_in) == (BreakerState.OPEN, failures, RESET)


def test_a_probe_that_is_given_up_lets_the_next_one_through(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET
    assert breaker.admit()
    breaker.abandoned()
    assert breaker.state.value == "half_open"
    assert breaker.admit()
    breaker.succeeded()
    assert breaker.state.value == "closed"


def test_calls_that_began_before_it_opened_and_fail_late_do_not_put_the_probe_off(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    assert all(breaker.admit() for _ in range(8))
    for _ in range(3):
        breaker.failed()
    for _ in range(5):
        clock.now += RESET / 4
        breaker.failed()
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.failures == 8
    assert breaker.admit()


def test_a_call_that_began_before_it_opened_and_succeeds_late_closes_it(breaker: CircuitBreaker) -> None:
    assert breaker.admit()
    fail(breaker, 3)
    assert breaker.state.value == "open"
    breaker.succeeded()
    assert breaker.state.value == "closed"


@given(
    st.integers(1, 5),
    st.lists(st.sampled_from(["succeeded", "failed", "abandoned"]) | st.integers(0, 20), max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_it_never_refuses_for_longer_than_its_time_and_never_opens_early(limit: int, steps: list[str | int]) -> None:
    clock = Clock()
    breaker = CircuitBreaker(limit, RESET, clock)
    in_a_row, opened_at = 0, None
    for step in steps:
        if isinstance(step, int):
            clock.now += step
            continue
        if not breaker.admit():
            assert opened_at is not None
            assert in_a_row >= limit
            assert clock.now - opened_at < RESET
            assert 0 < breaker.retry_in <= RESET
            continue
        getattr(breaker, step)()
        if step == "failed":
            in_a_row += 1
            if in_a_row >= limit:
                opened_at = clock.now
        elif step == "succeeded":
            in_a_row, opened_at = 0, None
        assert breaker.failures == in_a_row
        assert (breaker.state is BreakerState.CLOSED) is (in_a_row < limit)
