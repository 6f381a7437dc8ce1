"""Keys: LMCache's string format, both ways, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Final

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmcache_connect import CacheEngineKey, LayerCacheEngineKey, key_string
from lmcache_connect.dtypes import known_dtypes
from lmcache_connect.errors import InvalidKeyError
from lmcache_connect.keys import MAX_KEY_BYTES, TAG_PREFIX, key_strings, parse_key

MODEL: Final = "meta-llama/Llama-3.1-8B"
ALICE: Final = {f"{TAG_PREFIX}user": "alice"}

# Strings as LMCache 0.5.6 writes them, and what they stand for.
RECORDED: Final = (
    ("meta-llama/Llama-3.1-8B@1@0@abc123@bfloat16", CacheEngineKey(MODEL, 1, 0, 0xABC123, "bfloat16")),
    (
        "meta-llama/Llama-3.1-8B@1@0@abc123@bfloat16@user%alice",
        CacheEngineKey(MODEL, 1, 0, 0xABC123, "bfloat16", ALICE),
    ),
    (
        "meta-llama/Llama-3.1-8B@8@7@1f@half@user%alice@tenant%a%b",
        CacheEngineKey(MODEL, 8, 7, 0x1F, "half", {**ALICE, f"{TAG_PREFIX}tenant": "a%b"}),
    ),
    (
        "meta-llama/Llama-3.1-8B@1@0@abc123@bfloat16@3@user%alice",
        LayerCacheEngineKey(MODEL, 1, 0, 0xABC123, "bfloat16", ALICE, 3),
    ),
    ("meta-llama/Llama-3.1-8B@1@0@abc123@bfloat16@0", LayerCacheEngineKey(MODEL, 1, 0, 0xABC123, "bfloat16")),
    ("m@1@0@-ff@float", CacheEngineKey("m", 1, 0, -0xFF, "float")),
    ("m@-1@-2@0@fp8_e4m3fn", CacheEngineKey("m", -1, -2, 0, "fp8_e4m3fn")),
    ("m@2@1@000a0b@uint8", CacheEngineKey("m", 2, 1, b"\x00\x0a\x0b", "uint8")),
    ("m@2@1@00@uint8", CacheEngineKey("m", 2, 1, b"\x00", "uint8")),
    ("m@1@0@" + "c0ffee" * 10 + "@int8", CacheEngineKey("m", 1, 0, bytes.fromhex("c0ffee" * 10), "int8")),
    ("Qwen/模型 7B@1@0@1@double@user%", CacheEngineKey("Qwen/模型 7B", 1, 0, 1, "double", {f"{TAG_PREFIX}user": ""})),
)


@pytest.mark.parametrize(("text", "key"), RECORDED)
def test_a_key_is_written_as_lmcache_writes_it(text: str, key: CacheEngineKey) -> None:
    assert key.to_string() == str(key) == key_string(key) == text


@pytest.mark.parametrize(("text", "key"), RECORDED)
def test_a_string_of_lmcache_is_read_as_the_key_it_stands_for(text: str, key: CacheEngineKey) -> None:
    found = parse_key(text)
    assert found == key
    assert type(found) is type(key)
    assert type(key).from_string(text) == key
    assert (found.model_name, found.world_size, found.worker_id) == (key.model_name, key.world_size, key.worker_id)
    assert (found.chunk_hash_hex, found.dtype, found.tags) == (key.chunk_hash_hex, key.dtype, key.tags)


def test_a_hash_with_leading_zeros_stays_bytes_and_any_other_becomes_an_integer() -> None:
    assert CacheEngineKey.from_string("m@1@0@00ff@half").chunk_hash == b"\x00\xff"
    assert CacheEngineKey.from_string("m@1@0@ff@half").chunk_hash == 0xFF
    assert CacheEngineKey.from_string("m@1@0@0@half").chunk_hash == 0


def test_keys_are_equal_when_their_strings_are() -> None:
    as_bytes, as_integer = (CacheEngineKey("m", 1, 0, value, "half") for value in (b"\xab\xcd", 0xABCD))
    assert as_bytes == as_integer
    assert hash(as_bytes) == hash(as_integer)
    assert CacheEngineKey("m", 1, 0, 1, "half") == CacheEngineKey("m", 1, 0, 1, "float16")
    assert {as_bytes: "found"}[as_integer] == "found"


def test_request_configs_that_are_no_tags_do_not_matter() -> None:
    plain = CacheEngineKey("m", 1, 0, 1, "half")
    other = CacheEngineKey("m", 1, 0, 1, "half", {"lmcache.skip_save": True, "temperature": 0.5})
    assert plain == other
    assert other.tags is None


DIFFERENT: Final = (
    CacheEngineKey("m", 1, 0, 1, "half"),
    CacheEngineKey("n", 1, 0, 1, "half"),
    CacheEngineKey("m", 2, 0, 1, "half"),
    CacheEngineKey("m", 1, 1, 1, "half"),
    CacheEngineKey("m", 1, 0, 2, "half"),
    CacheEngineKey("m", 1, 0, b"\x00\x01", "half"),
    CacheEngineKey("m", 1, 0, 1, "bfloat16"),
    CacheEngineKey("m", 1, 0, 1, "half", ALICE),
    LayerCacheEngineKey("m", 1, 0, 1, "half"),
    LayerCacheEngineKey("m", 1, 0, 1, "half", None, 1),
    LayerCacheEngineKey("m", 1, 0, 1, "half", ALICE, 1),
)


def test_a_difference_in_any_part_makes_another_key() -> None:
    assert len(set(DIFFERENT)) == len(DIFFERENT) == len({key.to_string() for key in DIFFERENT})
    assert DIFFERENT[0] != DIFFERENT[0].to_string()


def test_tags_keep_their_order_and_turn_values_into_text() -> None:
    configs = {f"{TAG_PREFIX}b": 2, "other": 1, f"{TAG_PREFIX}a": None}
    key = CacheEngineKey("m", 1, 0, 1, "half", configs)
    assert key.tags == (("b", "2"), ("a", "None"))
    assert key.to_string() == "m@1@0@1@half@b%2@a%None"


def test_split_layers_gives_one_key_a_layer_in_order() -> None:
    key = CacheEngineKey(MODEL, 4, 3, b"\x00\x01", "bfloat16", ALICE)
    layers = key.split_layers(32)
    assert [layer.layer_id for layer in layers] == list(range(32))
    assert layers[31].to_string() == "meta-llama/Llama-3.1-8B@4@3@0001@bfloat16@31@user%alice"
    assert key.get_first_layer() == layers[0]
    assert key.split_layers(0) == []


def test_with_new_worker_id_changes_that_alone() -> None:
    for key in (CacheEngineKey("m", 4, 0, 1, "half", ALICE), LayerCacheEngineKey("m", 4, 0, 1, "half", ALICE, 5)):
        other = key.with_new_worker_id(3)
        assert type(other) is type(key)
        assert other.to_string() == key.to_string().replace("m@4@0@", "m@4@3@")
        assert key.worker_id == 0


@pytest.mark.parametrize("key", DIFFERENT, ids=str)
def test_a_key_is_frozen_and_can_be_copied(key: CacheEngineKey) -> None:
    names = [item.name for item in dataclasses.fields(key)]
    assert ("layer_id" in names) is isinstance(key, LayerCacheEngineKey)
    for name in names:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(key, name, 7)
    assert copy.copy(key) == copy.deepcopy(key) == key


def test_what_is_done_to_the_request_configs_later_does_not_change_the_key() -> None:
    configs = dict(ALICE)
    key = CacheEngineKey("m", 1, 0, 1, "half", configs)
    configs[f"{TAG_PREFIX}user"] = "bob"
    assert key.to_string() == "m@1@0@1@half@user%alice"
    assert key.tags == (("user", "alice"),)


def test_a_repr_shows_the_parts() -> None:
    assert "chunk_hash=1" in repr(DIFFERENT[0])
    assert repr(DIFFERENT[-1]) == "LayerCacheEngineKey('m@1@0@1@half@1@user%alice')"


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_name": ""}, "''"),
        ({"model_name": "a@b"}, "'a@b'"),
        ({"model_name": None}, "None"),
        ({"model_name": "line\nfeed"}, r"'\n' at position 4"),
        ({"model_name": "nul\x00"}, r"'\x00'"),
        ({"model_name": "lone\ud800"}, r"'\ud800'"),
        ({"model_name": "m" * 5000}, "5013 bytes exceed the limit of 4096"),
        ({"model_name": "模" * 1400}, "4213 bytes exceed the limit of 4096"),
        ({"world_size": "1"}, "'1': world_size"),
        ({"world_size": True}, "True: world_size"),
        ({"world_size": 1 << 64}, f"{1 << 64}: world_size"),
        ({"world_size": 10**5000}, "<int without a repr>: world_size"),
        ({"worker_id": 0.0}, "0.0: worker_id"),
        ({"worker_id": None}, "None: worker_id"),
        ({"chunk_hash": "abc"}, "'abc': chunk_hash"),
        ({"chunk_hash": b""}, "b'': chunk_hash"),
        ({"chunk_hash": False}, "False: chunk_hash"),
        ({"chunk_hash": 1.5}, "1.5: chunk_hash"),
        ({"chunk_hash": 1 << 17_000}, "exceed the limit of 4096"),
        ({"dtype": "float13"}, "'float13'"),
        ({"dtype": object}, "object"),
        ({"request_configs": {f"{TAG_PREFIX}a@b": "x"}}, "'a@b%x': a tag"),
        ({"request_configs": {f"{TAG_PREFIX}a%b": "x"}}, "'a%b%x': a tag"),
        ({"request_configs": {TAG_PREFIX: "x"}}, "'%x': a tag"),
        ({"request_configs": {f"{TAG_PREFIX}a": "x@y"}}, "'a%x@y': a tag"),
        ({"request_configs": {f"{TAG_PREFIX}a": "x\r"}}, r"'\r'"),
    ],
)
def test_a_part_that_the_format_cannot_hold_is_refused_by_its_value(change: dict[str, Any], named: str) -> None:
    parts: dict[str, Any] = {
        "model_name": "m", "world_size": 1, "worker_id": 0, "chunk_hash": 0xABC, "dtype": "half"
    }  # fmt: skip
    with pytest.raises(InvalidKeyError) as caught:
        CacheEngineKey(**parts | change)
    assert named in str(caught.value)
    with pytest.raises(InvalidKeyError):
        LayerCacheEngineKey(**parts | change)


@pytest.mark.parametrize("layer_id", [-1, True, "0", None, 1.0, 1 << 64])
def test_a_layer_that_is_no_number_from_0_is_refused_by_its_value(layer_id: Any) -> None:
    with pytest.raises(InvalidKeyError, match="layer_id") as caught:
        LayerCacheEngineKey("m", 1, 0, 1, "half", None, layer_id)
    assert repr(layer_id) in str(caught.value)
    assert caught.value.key is layer_id


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("m", "1 parts; expected model@world_size@worker_id@hash_hex@dtype"),
        ("m@1@0@abc", "4 parts"),
        ("m@x@0@abc@half", "world_size is 'x'"),
        ("m@1@@abc@half", "worker_id is ''"),
        ("m@1@0x0@abc@half", "worker_id is '0x0'"),
        ("m@1@٣@abc@half", "worker_id is '٣'"),
        ("m@1@0@xyz@half", "'xyz' is not lower-case hexadecimal"),
        ("m@1@0@@half", "'' is not lower-case hexadecimal"),
        ("m@1@0@0xab@half", "'0xab' is not lower-case hexadecimal"),
        ("m@1@0@abc@", "unknown dtype ''"),
        ("m@1@0@abc@float13", "unknown dtype 'float13'"),
        ("m@1@0@abc@half@tag", "'tag' is not of the form tag%value"),
        ("m@1@0@abc@half@", "'' is not of the form tag%value"),
        ("m@1@0@abc@half@%x", "a tag needs a name"),
        ("m@1@0@abc@half@²", "'²'"),
        ("m@1@0@abc@half@3@4", "'4' is not of the form tag%value"),
        ("m@1@0@abc\n@half", r"'\n' at position 9"),
        # One chunk must have one spelling, or a listing would name keys that do not exist.
        ("m@01@0@abc@half", "expected the spelling 'm@1@0@abc@half'"),
        ("m@1@-0@abc@half", "expected the spelling 'm@1@0@abc@half'"),
        ("m@1@0@0abc@", "unknown dtype ''"),
        ("m@1@0@0ab@half", "expected the spelling 'm@1@0@ab@half'"),
        ("m@1@0@-0@half", "expected the spelling 'm@1@0@0@half'"),
        ("m@1@0@abc@float16", "expected the spelling 'm@1@0@abc@half'"),
        ("m@1@0@abc@half@a%1@a%2", "expected the spelling 'm@1@0@abc@half@a%2'"),
        ("m@1@0@abc@half@007", "expected the spelling 'm@1@0@abc@half@7'"),
    ],
)
def test_a_string_that_is_not_in_the_format_is_refused_by_its_value(text: str, reason: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        parse_key(text)
    assert reason in str(caught.value)


def test_a_chunk_key_is_no_layer_key_and_the_other_way_round() -> None:
    with pytest.raises(InvalidKeyError, match=r"5 parts; expected .*@layer_id"):
        LayerCacheEngineKey.from_string("m@1@0@abc@half")
    with pytest.raises(InvalidKeyError, match="layer_id is 'user%alice'"):
        LayerCacheEngineKey.from_string("m@1@0@abc@half@user%alice")
    with pytest.raises(InvalidKeyError, match="'3' is not of the form tag%value"):
        CacheEngineKey.from_string("m@1@0@abc@half@3")


@pytest.mark.parametrize("text", [None, b"m@1@0@abc@half", 5, ["m"]])
def test_something_that_is_no_string_is_refused_as_a_key(text: Any) -> None:
    for read in (parse_key, CacheEngineKey.from_string, LayerCacheEngineKey.from_string, key_string):
        with pytest.raises(InvalidKeyError, match="expected a") as caught:
            read(text)
        assert repr(text) in str(caught.value)


# -------------------------------------------------------------------------------------- what names a chunk


@pytest.mark.parametrize(
    "text", ["a", "any name", "ключ", "a@b", "%41", "x" * MAX_KEY_BYTES, "ü" * (MAX_KEY_BYTES // 2)]
)
def test_any_printable_string_up_to_the_limit_names_a_chunk(text: str) -> None:
    assert key_string(text) is text


@pytest.mark.parametrize(
    "text", ["", "a\x00b", "\x1f", "del\x7f", "\ud800", "x" * (MAX_KEY_BYTES + 1), "ü" * MAX_KEY_BYTES]
)
def test_a_string_that_no_store_should_see_is_refused(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        key_string(text)


def test_a_key_object_of_lmcaches_own_is_taken_by_its_string() -> None:
    class TheirKey:
        def __init__(self, text: object) -> None:
            self.text = text

        def to_string(self) -> object:
            return self.text

    theirs: Any = TheirKey("m@1@0@abc@half")
    assert key_string(theirs) == "m@1@0@abc@half"
    for bad in ("", "a\nb", None):
        theirs.text = bad
        with pytest.raises(InvalidKeyError):
            key_string(theirs)


# ---------------------------------------------------------------------------------------------- round trips

allowed = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="@")
names = st.text(allowed, min_size=1, max_size=40)
tag_names = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="@%"), min_size=1, max_size=10)
numbers = st.integers(-(1 << 63) + 1, (1 << 63) - 1)
hashes = st.one_of(st.integers(-(1 << 256), 1 << 256), st.binary(min_size=1, max_size=32))
tags = st.dictionaries(tag_names.map(lambda name: TAG_PREFIX + name), st.text(allowed, max_size=20), max_size=4)


@given(names, numbers, numbers, hashes, st.sampled_from(known_dtypes()), tags, st.none() | st.integers(0, 1 << 40))
@settings(max_examples=200, deadline=None)
def test_every_key_that_can_be_made_survives_its_string(
    model: str, size: int, worker: int, value: int | bytes, dtype: str, configs: dict[str, str], layer: int | None
) -> None:
    key = (
        CacheEngineKey(model, size, worker, value, dtype, configs)
        if layer is None
        else LayerCacheEngineKey(model, size, worker, value, dtype, configs, layer)
    )
    found = parse_key(key.to_string())
    assert found == key
    assert type(found) is type(key)
    assert hash(found) == hash(key)
    assert found.tags == key.tags
    assert getattr(found, "layer_id", None) == layer


@given(st.text(max_size=60) | st.from_regex(r"m@-?[0-9]{1,3}@[0-9]{1,2}@[0-9a-fx-]{0,4}@half(@[a0%]{0,3}){0,2}"))
@settings(max_examples=200, deadline=None)
def test_every_string_is_read_back_unchanged_or_refused(text: str) -> None:
    try:
        key = parse_key(text)
    except InvalidKeyError:
        return
    assert key.to_string() == text


@given(names, names)
def test_two_strings_of_lmcache_are_one_key_only_when_they_are_one_string(one: str, other: str) -> None:
    assume(one != other)
    assert CacheEngineKey(one, 1, 0, 1, "half") != CacheEngineKey(other, 1, 0, 1, "half")


@pytest.mark.lmcache
@pytest.mark.parametrize(("text", "key"), RECORDED)
def test_lmcaches_own_classes_write_the_same_string(text: str, key: CacheEngineKey) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    theirs: Any = pytest.importorskip("lmcache.utils", reason="LMCache is not installed")
    dtype = theirs.STR_DTYPE_TO_TORCH_DTYPE[key.dtype.name]
    parts = (key.model_name, key.world_size, key.worker_id, key.chunk_hash, dtype, dict(key.request_configs or {}))
    if isinstance(key, LayerCacheEngineKey):
        own = theirs.LayerCacheEngineKey(*parts, layer_id=key.layer_id)
    else:
        own = theirs.CacheEngineKey(*parts)
    assert own.to_string() == text
    assert key_string(own) == text


@pytest.mark.parametrize(
    "odd",
    ["", "a\x00b", "a\nb", "\ud800", "x" * (MAX_KEY_BYTES + 1), "é" * MAX_KEY_BYTES, 5, None, b"bytes", object()],
)
def test_one_key_that_is_none_fails_a_whole_batch(odd: Any) -> None:
    good = ["a", "b@1@0@ff@half", "c" * MAX_KEY_BYTES]
    assert key_strings(good) == good
    for place in range(len(good) + 1):
        with pytest.raises(InvalidKeyError):
            key_strings([*good[:place], odd, *good[place:]])


def test_a_batch_of_keys_of_every_kind_is_named_one_by_one() -> None:
    key = CacheEngineKey("m", 1, 0, 0xABC, "half")
    assert key_strings([key, "é", "plain"]) == [key.to_string(), "é", "plain"]
    assert key_strings([]) == []
