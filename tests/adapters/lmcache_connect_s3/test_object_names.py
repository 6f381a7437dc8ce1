"""Keys as names of objects: every key has one name, every name one key, and tenants never meet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_connect.errors import InvalidKeyError
from lmcache_connect_s3.object_names import MAX_NAME_BYTES, SEGMENT, ObjectNames

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=150)
NAMES = ObjectNames("tenant/model")


@given(KEYS)
def test_a_name_stands_for_one_key(key: str) -> None:
    try:
        name = NAMES.name(key)
    except InvalidKeyError:
        assert len(key.encode()) * 3 > MAX_NAME_BYTES - 100
        return
    assert NAMES.key(name) == key
    assert len(name) <= MAX_NAME_BYTES
    assert name.isascii()


@given(KEYS, KEYS)
def test_a_prefix_of_a_key_gives_a_prefix_of_its_name(prefix: str, rest: str) -> None:
    try:
        assert NAMES.name(prefix + rest).startswith(NAMES.listed_prefix(prefix))
    except InvalidKeyError:
        pass


@given(KEYS, KEYS)
def test_no_name_is_the_folder_of_another(one: str, other: str) -> None:
    try:
        assert not NAMES.name(one).startswith(NAMES.name(other) + "/")
    except InvalidKeyError:
        pass


@given(st.text(max_size=60))
def test_a_name_that_is_not_ours_is_no_key(name: str) -> None:
    key = NAMES.key(name)
    assert key is None or NAMES.name(key) == name


LONG = ["a" * (SEGMENT - 1), "a" * SEGMENT, "a" * (SEGMENT + 1), "a" * 700, "." * 250, ".", "..", "a/../b"]


@pytest.mark.parametrize("key", LONG)
def test_segments_are_never_dots_and_never_too_long(key: str) -> None:
    name = NAMES.name(key)
    for segment in name.split("/"):
        assert segment not in {"", ".", ".."}
        assert len(segment) <= SEGMENT + 4
    assert NAMES.key(name) == key


def test_a_key_that_is_too_long_is_refused_with_the_limit() -> None:
    with pytest.raises(InvalidKeyError, match="more than 1024 bytes"):
        NAMES.name("k" * 1100)


def test_a_tenant_whose_name_begins_anothers_sees_nothing_of_it() -> None:
    inner, outer = ObjectNames("a/b"), ObjectNames("a")
    assert outer.key(inner.name("k")) is None
    assert inner.key(outer.name("k")) is None
    assert not ObjectNames("a").name("k").startswith(ObjectNames("ab").listed_prefix(""))


def test_the_key_of_lmcache_is_one_segment() -> None:
    key = "meta-llama/Llama-3.1-8B@8@0@00000000deadbeef@bfloat16"
    assert ObjectNames("").name(key) == "meta-llama%2FLlama-3.1-8B@8@0@00000000deadbeef@bfloat16"
