"""What fails again and again: told when it begins, at a bounded rate, and when it has ended; and judged."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest

from lmcache_connect.observability import Conditions


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def conditions(clock: Clock) -> Conditions:
    return Conditions("redis://h", clock, clock)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "lmcache_connect")

    def told() -> list[dict[str, Any]]:
        found = [record.connect for record in caplog.records]  # type: ignore[attr-defined]
        caplog.clear()
        return found

    return told


def test_a_condition_is_told_when_it_begins_then_counted_and_told_when_it_has_ended(
    conditions: Conditions, clock: Clock, lines: Any
) -> None:
    for _ in range(6_000):  # 100 a second for a minute
        conditions.failed("put", "StoreFullError", "the store is full")
        clock.now += 0.01
    begun, *counted = lines()
    assert begun == {
        "event": "operation_failed",
        "store": "redis://h",
        "operation": "put",
        "error": "the store is full",
    }
    assert [line["event"] for line in counted] == ["operation_keeps_failing"]
    assert counted[0]["failures"] == counted[0]["calls"] == pytest.approx(3_001, abs=1)
    assert counted[0]["seconds"] == pytest.approx(30, abs=0.1)
    conditions.succeeded("put")
    assert lines() == []
    clock.now += 10
    conditions.succeeded("put")
    (ended,) = lines()
    assert ended == {
        "event": "operation_failures_ended",
        "store": "redis://h",
        "operation": "put",
        "error": "StoreFullError",
        "failures": 6_000,
        "calls": 6_002,
        "seconds": pytest.approx(60, abs=0.1),
        "now": "succeeds",
    }
    assert conditions.is_clear


def test_failures_that_come_and_go_are_told_at_a_bounded_rate(conditions: Conditions, clock: Clock, lines: Any) -> None:
    for _ in range(3_600):  # fails for a second, works for eleven, for twelve hours
        for _ in range(10):
            conditions.failed("get", "StoreUnavailableError", "gone")
            clock.now += 0.1
        conditions.succeeded("get")
        clock.now += 11
        conditions.succeeded("get")
    assert len(lines()) <= 2 * 12 * 3600 / 30


def test_kinds_of_operations_and_errors_are_told_apart(conditions: Conditions, clock: Clock, lines: Any) -> None:
    for operation, error in [("put", "A"), ("put", "B"), ("get", "A")] * 5:
        conditions.failed(operation, error, error)
    assert [(line["operation"], line["error"]) for line in lines()] == [("put", "A"), ("put", "B"), ("get", "A")]
    clock.now += 11
    conditions.succeeded("get")
    assert [(line["operation"], line["error"]) for line in lines()] == [("get", "A")]


def test_what_nobody_calls_any_more_ends_by_itself(conditions: Conditions, clock: Clock, lines: Any) -> None:
    conditions.failed("get", "StoreUnavailableError", "gone")
    clock.now += 301
    assert conditions.serious() == ()
    assert [line["event"] for line in lines()] == ["operation_failed", "operation_failures_ended"]
    conditions.failed("get", "StoreUnavailableError", "gone")
    conditions.end()
    assert lines()[-1]["now"] == "is closed"
    assert conditions.is_clear


def test_a_kind_of_operation_that_only_fails_is_serious_until_one_succeeds(
    conditions: Conditions, clock: Clock
) -> None:
    conditions.failed("put", "StoreFullError", "the store is full")
    clock.now += 5
    conditions.refused("put")
    (found,) = conditions.serious()
    assert (found.operation, found.error, found.detail) == ("put", "StoreFullError", "the store is full")
    assert (found.since, found.seconds, found.failures, found.calls) == (1000, 5, 2, 2)
    conditions.succeeded("get")
    assert len(conditions.serious()) == 1
    conditions.succeeded("put")
    assert conditions.serious() == ()


def test_it_is_serious_for_a_minute_where_nobody_tries_again(conditions: Conditions, clock: Clock) -> None:
    conditions.failed("put", "StoreFullError", "the store is full")
    clock.now += 59
    assert conditions.serious()
    clock.now += 2
    assert conditions.serious() == ()


@pytest.mark.parametrize(("of", "is_serious"), [(1, True), (2, True), (9, True), (20, False), (1000, False)])
def test_a_tenth_of_the_recent_calls_makes_it_serious(
    conditions: Conditions, clock: Clock, of: int, is_serious: bool
) -> None:
    for _ in range(1000):  # what was before weighs less and less
        conditions.failed("get", "OperationTimeoutError", "late")
    for at in range(20_000):
        clock.now += 0.05
        if at % of == 0:
            conditions.failed("get", "OperationTimeoutError", "late")
        else:
            conditions.succeeded("get")
    conditions.succeeded("get")
    assert bool(conditions.serious()) is is_serious


def test_one_failure_among_successes_is_not_serious(conditions: Conditions) -> None:
    conditions.failed("get", "StoreUnavailableError", "gone")
    conditions.succeeded("get")
    assert conditions.serious() == ()
