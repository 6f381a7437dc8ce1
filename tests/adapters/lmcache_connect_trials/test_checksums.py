"""What an audit knows of a key: only what is certain, so that it never raises a wrong alarm."""

from __future__ import annotations

from lmcache_connect_trials.checksums import Checksums


def put(checksums: Checksums, name: str, checksum: int, *, succeeded: bool = True) -> None:
    checksums.end_put(checksums.begin_put(name, checksum), checksum, succeeded)


def found(checksums: Checksums, name: str) -> set[int] | None:
    return checksums.allowed(checksums.begin_get(name))


def test_a_get_may_bring_what_was_put_last_and_nothing_else() -> None:
    checksums = Checksums(10)
    put(checksums, "k", 1)
    put(checksums, "k", 2)
    assert found(checksums, "k") == {2}


def test_nothing_is_known_of_a_key_that_was_not_put_or_was_removed() -> None:
    checksums = Checksums(10)
    assert found(checksums, "k") is None
    checksums.begin_put("k", 1)
    assert found(checksums, "k") is None
    put(checksums, "l", 1)
    reading = checksums.begin_get("l")
    checksums.forget("l")
    assert checksums.allowed(reading) is None
    assert found(checksums, "l") is None


def test_a_put_under_way_and_one_that_failed_may_have_stored_their_chunks() -> None:
    checksums = Checksums(10)
    put(checksums, "k", 1)
    put(checksums, "k", 2, succeeded=False)
    reading = checksums.begin_get("k")
    checksums.begin_put("k", 3)
    assert checksums.allowed(reading) == {1, 2, 3}


def test_nothing_is_known_of_a_get_during_which_a_put_succeeded() -> None:
    checksums = Checksums(10)
    put(checksums, "k", 1)
    reading = checksums.begin_get("k")
    put(checksums, "k", 2)
    assert checksums.allowed(reading) is None


def test_puts_that_overlap_leave_nothing_known_until_the_next_one() -> None:
    checksums = Checksums(10)
    first, second = checksums.begin_put("k", 1), checksums.begin_put("k", 2)
    checksums.end_put(first, 1, True)
    checksums.end_put(second, 2, True)
    assert found(checksums, "k") is None
    put(checksums, "k", 3)
    assert found(checksums, "k") == {1, 2, 3}


def test_many_failed_puts_leave_nothing_known_until_the_next_one() -> None:
    checksums = Checksums(10)
    put(checksums, "k", 0)
    for checksum in range(1, 10):
        put(checksums, "k", checksum, succeeded=False)
    assert found(checksums, "k") is None
    put(checksums, "k", 20)
    assert found(checksums, "k") == {20}


def test_the_keys_used_least_recently_are_forgotten() -> None:
    checksums = Checksums(2)
    put(checksums, "a", 1)
    put(checksums, "b", 2)
    reading = checksums.begin_get("b")
    assert found(checksums, "a") == {1}
    put(checksums, "c", 3)
    assert checksums.allowed(reading) is None
    assert [found(checksums, name) for name in "abc"] == [{1}, None, {3}]
