"""An event that comes thousands of times is told at a bounded rate, and its number is told."""

from __future__ import annotations

import logging

import pytest

from lmcache_connect.observability import RepeatedEvent


def test_an_event_that_comes_again_and_again_is_told_ten_times_a_minute_with_how_many_were_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "lmcache_connect")
    now = 0.0
    repeated = RepeatedEvent("released_twice", lambda: now)
    for number in range(1_000):
        now = number * 0.01
        repeated.tell(logging.WARNING, number=number)
    now = 60.0
    repeated.tell(logging.WARNING, number=1_000)
    lines = [(record.levelno, record.connect) for record in caplog.records]  # type: ignore[attr-defined]
    told = [facts for level, facts in lines if level == logging.WARNING]
    assert [facts["number"] for facts in told] == [*range(10), 1_000]
    assert told[-1] == {"event": "released_twice", "number": 1_000, "untold": 990}
    assert len(lines) == 1_001
