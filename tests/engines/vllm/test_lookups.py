"""Look-ups: asked once a step, bounded in time, and kept for as long as a request wants them."""

from __future__ import annotations

from lmcache_connect.engines.vllm.lookups import Lookups


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_asked_for_once_for_all_requests() -> None:
    lookups = Lookups(1.0, Clock())
    assert lookups.answer(b"k", "a") is None
    assert lookups.answer(b"k", "b") is None
    batch = lookups.take_batch()
    assert [probe.key for probe in batch] == [b"k"]
    assert lookups.answer(b"k", "c") is None
    assert lookups.take_batch() == []
    lookups.resolve(batch, [True])
    assert [lookups.answer(b"k", request) for request in "abcd"] == [True] * 4
    assert lookups.take_batch() == []


def test_a_key_without_an_answer_is_missing_after_the_deadline_and_is_counted_once() -> None:
    clock = Clock()
    lookups = Lookups(1.0, clock)
    assert lookups.answer(b"k", "a") is None
    batch = lookups.take_batch()
    clock.now += 0.999
    lookups.begin_step()
    assert lookups.answer(b"k", "a") is None
    clock.now += 0.001
    lookups.begin_step()
    assert lookups.answer(b"k", "a") is False
    assert lookups.answer(b"k", "b") is False
    assert lookups.expired == 1
    lookups.resolve(batch, [True])
    assert lookups.answer(b"k", "b") is True


def test_the_deadline_also_bounds_a_key_that_was_never_sent() -> None:
    clock = Clock()
    lookups = Lookups(1.0, clock)
    assert lookups.answer(b"k", "a") is None
    clock.now += 1
    lookups.begin_step()
    assert lookups.answer(b"k", "a") is False


def test_a_key_whose_load_failed_stays_missing_until_its_requests_have_ended() -> None:
    lookups = Lookups(1.0, Clock())
    lookups.answer(b"k", "a")
    lookups.resolve(lookups.take_batch(), [True])
    lookups.mark_failed([b"k", b"unknown"])
    assert lookups.answer(b"k", "a") is False
    assert lookups.answer(b"k", "b") is False
    assert lookups.failed_among([b"k", b"other"]) == {b"k"}
    lookups.forget("a")
    assert lookups.answer(b"k", "b") is False
    lookups.forget("b")
    assert lookups.failed_among([b"k"]) == frozenset()
    assert lookups.answer(b"k", "c") is None, "asked again"


def test_a_failed_load_wins_over_an_answer_that_comes_afterwards() -> None:
    lookups = Lookups(1.0, Clock())
    lookups.answer(b"k", "a")
    batch = lookups.take_batch()
    lookups.mark_failed([b"k"])
    lookups.resolve(batch, [True])
    assert lookups.answer(b"k", "a") is False


def test_a_key_that_nobody_wants_any_more_is_not_asked_for() -> None:
    lookups = Lookups(1.0, Clock())
    lookups.answer(b"k", "a")
    lookups.forget("a")
    assert lookups.take_batch() == []
    assert len(lookups) == 0


def test_a_key_that_was_forgotten_and_is_wanted_again_in_one_step_is_asked_for_once() -> None:
    lookups = Lookups(1.0, Clock())
    lookups.answer(b"k", "a")
    lookups.forget("a")
    lookups.answer(b"k", "b")
    batch = lookups.take_batch()
    assert [probe.key for probe in batch] == [b"k"]
    lookups.resolve(batch, [True])
    assert lookups.answer(b"k", "b") is True


def test_an_answer_under_way_serves_the_next_request_though_the_first_has_ended() -> None:
    lookups = Lookups(1.0, Clock())
    lookups.answer(b"k", "a")
    batch = lookups.take_batch()
    lookups.forget("a")
    assert lookups.answer(b"k", "b") is None
    assert lookups.take_batch() == []
    lookups.resolve(batch, [True])
    assert lookups.answer(b"k", "b") is True


def test_nothing_is_kept_when_all_requests_and_answers_have_ended() -> None:
    lookups = Lookups(1.0, Clock())
    for number in range(100):
        lookups.answer(bytes([number % 10]), f"r{number}")
    batch = lookups.take_batch()
    for number in range(100):
        lookups.forget(f"r{number}")
    assert len(lookups) == 10
    lookups.resolve(batch, [True] * len(batch))
    assert len(lookups) == 0
    assert lookups._of_request == {}
