"""The circuit breaker: pure decisions, under a clock that the test turns."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_connect.contract import Admission, CircuitBreaker
from lmcache_connect.managed import BreakerState

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


def admitted(breaker: CircuitBreaker) -> Admission:
    admission = breaker.admit()
    assert admission is not None
    return admission


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker))


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


def test_a_success_in_between_starts_the_count_again(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    breaker.succeeded(admitted(breaker))
    assert breaker.failures == 0
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


def test_an_operation_that_was_given_up_tells_nothing(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    breaker.abandoned(admitted(breaker))
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
    breaker.succeeded(admitted(breaker))
    assert (breaker.state, breaker.failures, breaker.retry_in) == (BreakerState.CLOSED, 0, 0.0)
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


def test_a_probe_that_fails_opens_it_for_the_whole_time_again(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    for failures in (4, 5):
        clock.now += RESET + 1
        breaker.failed(admitted(breaker))
        assert (breaker.state, breaker.failures, breaker.retry_in) == (BreakerState.OPEN, failures, RESET)


def test_a_probe_that_is_given_up_lets_the_next_one_through(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET
    breaker.abandoned(admitted(breaker))
    assert breaker.state.value == "half_open"
    breaker.succeeded(admitted(breaker))
    assert breaker.state.value == "closed"


def test_calls_that_began_before_it_opened_and_fail_late_do_not_put_the_probe_off(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    old = [admitted(breaker) for _ in range(8)]
    for admission in old[:3]:
        breaker.failed(admission)
    for admission in old[3:]:
        clock.now += RESET / 4
        breaker.failed(admission)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.failures == 8
    assert breaker.admit()


def test_a_call_that_began_before_it_opened_and_succeeds_late_closes_it(breaker: CircuitBreaker) -> None:
    old = admitted(breaker)
    fail(breaker, 3)
    assert breaker.state.value == "open"
    breaker.succeeded(old)
    assert breaker.state.value == "closed"


@pytest.mark.parametrize("verdict", ["failed", "abandoned"])
@pytest.mark.parametrize("whose", ["of an older call", "of one that was not admitted"])
def test_a_late_verdict_does_not_end_the_probe(breaker: CircuitBreaker, clock: Clock, verdict: str, whose: str) -> None:
    old = admitted(breaker) if whose == "of an older call" else None
    fail(breaker, 3)
    clock.now += RESET
    probe = admitted(breaker)
    getattr(breaker, verdict)(old)
    assert breaker.admit() is None
    clock.now += RESET / 2
    breaker.failed(probe)
    assert (breaker.state, breaker.retry_in) == (BreakerState.OPEN, RESET)


def test_a_probe_that_ends_after_another_call_closed_it_is_one_call_among_others(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    old = admitted(breaker)
    fail(breaker, 3)
    clock.now += RESET
    late = admitted(breaker)
    breaker.succeeded(old)
    breaker.failed(late)
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 1)
    fail(breaker, 2)
    clock.now += RESET
    probe = admitted(breaker)
    breaker.abandoned(late)
    assert breaker.admit() is None
    breaker.abandoned(probe)
    assert admitted(breaker)


def test_a_call_that_was_not_admitted_and_succeeds_closes_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 3)
    breaker.succeeded(breaker.admit())
    assert breaker.state is BreakerState.CLOSED


def test_look_ups_that_are_answered_neither_forget_failed_transfers_nor_close_what_they_opened(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    for _ in range(3):
        breaker.failed(admitted(breaker), is_transfer=True)
        breaker.answered(breaker.admit(is_transfer=False))
    assert breaker.state is BreakerState.OPEN
    clock.now += RESET
    breaker.answered(breaker.admit(is_transfer=False))
    assert (breaker.state, breaker.failures) == (BreakerState.HALF_OPEN, 3)
    breaker.succeeded(admitted(breaker))
    assert breaker.state.value == "closed"


def test_look_ups_that_failed_are_forgotten_when_one_is_answered(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed(admitted(breaker), is_transfer=False)
    assert breaker.state is BreakerState.OPEN
    clock.now += RESET
    breaker.answered(breaker.admit(is_transfer=False))
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)


def test_while_transfers_are_on_trial_look_ups_pass_and_one_transfer_each_time(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    clock.now += RESET
    trial = admitted(breaker)
    assert breaker.is_probe(trial)
    assert breaker.admit(is_transfer=False) is None
    breaker.on_trial(trial)  # the look-up before it was answered
    assert all(breaker.admit(is_transfer=False) for _ in range(10))
    assert breaker.admit() is None
    clock.now += RESET  # the first trial may take long: it does not keep others from being tried
    second = admitted(breaker)
    breaker.on_trial(second)
    breaker.failed(trial)
    assert breaker.admit() is None
    breaker.succeeded(second)
    assert breaker.state is BreakerState.CLOSED


def test_a_trial_that_found_no_chunk_makes_way_for_the_next_one_at_once(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET
    for _ in range(3):
        trial = admitted(breaker)
        breaker.on_trial(trial)
        assert breaker.admit() is None
        breaker.answered(trial)
        breaker.answered(breaker.admit(is_transfer=False))
        assert breaker.state is BreakerState.HALF_OPEN
    late, clock.now = admitted(breaker), clock.now + RESET
    breaker.on_trial(late)
    clock.now += RESET
    breaker.on_trial(admitted(breaker))
    breaker.answered(late)  # another trial is under way, and it is that one which counts
    assert breaker.admit() is None


def test_a_look_up_that_fails_ends_the_trial_of_transfers(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += RESET
    breaker.on_trial(admitted(breaker))
    breaker.failed(breaker.admit(is_transfer=False), is_transfer=False)
    assert breaker.admit(is_transfer=False) is None


@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(st.sampled_from(["succeeded", "failed", "abandoned"]), st.integers(0, 3))
        | st.just("admit")
        | st.integers(0, 20),
        max_size=60,
    ),
)
@settings(max_examples=300, deadline=None)
def test_whatever_order_the_verdicts_come_in_it_refuses_for_its_time_at_most_and_probes_one_at_a_time(
    limit: int, steps: list[tuple[str, int] | str | int]
) -> None:
    clock = Clock()
    breaker = CircuitBreaker(limit, RESET, clock)
    under_way: list[Admission] = []
    in_a_row, opened_at, probe = 0, None, None
    for step in steps:
        if isinstance(step, int):
            clock.now += step
        elif isinstance(step, str):
            is_due = opened_at is None or (probe is None and clock.now - opened_at >= RESET)
            assert (breaker.state is BreakerState.OPEN) is not is_due
            admission = breaker.admit()
            assert (admission is not None) is is_due
            if admission is None:
                assert breaker.retry_in <= RESET
                continue
            assert not any(admission is other for other in under_way) or opened_at is None
            under_way.append(admission)
            probe = admission if opened_at is not None else None
        elif under_way:
            verdict, which = step
            admission = under_way.pop(which % len(under_way))
            getattr(breaker, verdict)(admission)
            if verdict == "succeeded":
                in_a_row, opened_at, probe = 0, None, None
                continue
            if verdict == "failed":
                in_a_row += 1
                if admission is probe or (opened_at is None and in_a_row >= limit):
                    opened_at = clock.now
            if admission is probe:
                probe = None
        assert breaker.failures == in_a_row
        assert (breaker.state is BreakerState.CLOSED) is (in_a_row < limit)
