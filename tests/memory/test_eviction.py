"""Eviction policies: who goes first."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.memory.eviction import eviction_policy


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("LRU", ["b", "d", "c", "a"]),
        ("MRU", ["a", "c", "d", "b"]),
        ("FIFO", ["a", "b", "c", "d"]),
        ("LFU", ["b", "d", "c", "a"]),
    ],
)
def test_a_policy_names_candidates_in_its_order(name: str, order: list[str]) -> None:
    policy = eviction_policy(name)
    for key in "abcd":
        policy.insert(key)
    for key in "aca":
        policy.hit(key)
    assert list(policy.candidates()) == order
    assert list(policy.candidates()) == order  # asking changes nothing
    policy.remove("c")
    assert list(policy.candidates()) == [key for key in order if key != "c"]


def test_lru_and_lfu_differ_where_one_chunk_was_used_often_and_long_ago() -> None:
    for name, first in (("LRU", "often"), ("LFU", "late")):
        policy = eviction_policy(name)
        policy.insert("often")
        policy.insert("late")
        for _ in range(3):
            policy.hit("often")
        policy.hit("late")
        assert next(policy.candidates()) == first


def test_a_key_that_comes_again_starts_from_the_beginning() -> None:
    policy = eviction_policy("LFU")
    policy.insert("a")
    for _ in range(5):
        policy.hit("a")
    policy.remove("a")
    policy.insert("b")
    policy.hit("b")
    policy.insert("a")
    assert list(policy.candidates()) == ["a", "b"]


@pytest.mark.parametrize("name", ["LRU", "LFU", "FIFO", "MRU"])
def test_a_policy_names_every_known_key_once(name: str) -> None:
    decide = random.Random(name)
    policy = eviction_policy(name)
    known: set[str] = set()
    for step in range(2_000):
        key = str(decide.randrange(50))
        if key not in known:
            policy.insert(key)
            known.add(key)
        elif decide.random() < 0.6:
            policy.hit(key)
        else:
            policy.remove(key)
            known.remove(key)
        if step % 100 == 0:
            candidates = list(policy.candidates())
            assert len(candidates) == len(known)
            assert set(candidates) == known


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("LRU", ["c", "d", "a", "b"]),  # the last use of those that come back ends now
        ("MRU", ["b", "a", "d", "c"]),
        ("FIFO", ["b", "a", "c", "d"]),
        ("LFU", ["b", "a", "c", "d"]),
    ],
)
def test_keys_set_aside_are_no_candidates_until_they_are_put_back(name: str, order: list[str]) -> None:
    policy = eviction_policy(name)
    for key in "abcdx":
        policy.insert(key)
    for key in "abx":
        policy.set_aside(key)
    assert sorted(policy.candidates()) == ["c", "d"]
    policy.remove("x")
    policy.put_back("a")
    policy.put_back("b")
    assert list(policy.candidates()) == order


def test_a_use_of_a_key_set_aside_counts_when_it_is_put_back() -> None:
    policy = eviction_policy("LFU")
    policy.insert("a")
    policy.insert("b")
    policy.set_aside("a")
    policy.hit("a")
    policy.put_back("a")
    assert list(policy.candidates()) == ["b", "a"]


def test_a_policy_is_found_by_its_name_in_any_case() -> None:
    assert type(eviction_policy("lru")) is type(eviction_policy("LRU"))


@pytest.mark.parametrize("name", ["", "ARC", None, 5])
def test_an_unknown_policy_is_refused_with_the_known_ones(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name!r} is not one of LRU, LFU, FIFO, MRU"):
        eviction_policy(name)
