"""The store's names for LMCache's objects."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_connect.engines.lmcache.object_names import ObjectNames
from lmcache_connect.errors import InvalidConfigError

from .restated import ObjectKey

FACTS: dict[str, Any] = {"dtype": "bfloat16", "kv_layout": "NHD", "revision": "0a1b2c3"}
KEY = "org/Model-8B@00000102@0@00ff"


def test_a_name_shows_the_model_and_ends_in_lmcaches_own_rank_group_and_hash() -> None:
    name = ObjectNames(FACTS).name(KEY)
    assert name.split("@")[1] == "Model-8B"
    assert name.endswith("@00000102@0@00ff")


def test_a_salt_is_never_in_the_clear_and_changes_the_name() -> None:
    names = ObjectNames(FACTS)
    salted = names.name(f"{KEY}@secret-of-a-user")
    assert "secret" not in salted
    assert len({salted, names.name(KEY), names.name(f"{KEY}@other")}) == 3
    assert "secret" not in repr(names.status())


@pytest.mark.parametrize(
    "other",
    [
        {**FACTS, "dtype": "float16"},
        {**FACTS, "kv_layout": "HND"},
        {**FACTS, "revision": "ffff"},
        {**FACTS, "fingerprint": "abc"},
        {**FACTS, "tokens_per_chunk": 256},
        {**FACTS, "tenant": "blue"},
        {"dtype": "bfloat16"},
        {},
    ],
)
def test_another_value_in_any_field_is_another_name(other: dict[str, Any]) -> None:
    assert ObjectNames(other).name(KEY) != ObjectNames(FACTS).name(KEY)


def test_two_servers_with_the_same_facts_have_the_same_names() -> None:
    reordered = dict(reversed(FACTS.items()))
    assert ObjectNames(reordered, strict_identity=True).name(KEY) == ObjectNames(FACTS).name(KEY)


@given(
    st.lists(
        st.builds(
            ObjectKey,
            chunk_hash=st.binary(min_size=1, max_size=3),
            model_name=st.sampled_from(["m", "m/1", "00000102", "m@1", "m@00000102", "m@00000102@0"]),
            kv_rank=st.sampled_from([0, 0x102, 0x1000_0003]),
            object_group_id=st.sampled_from([0, 0x10, 0x1000_0003]),
            cache_salt=st.sampled_from(["", "0", "00", "ffff"]),
        ),
        min_size=2,
        max_size=12,
        unique=True,
    )
)
def test_every_key_that_lmcache_can_make_has_a_name_of_its_own(keys: list[ObjectKey]) -> None:
    names = ObjectNames(FACTS)
    possible = [key for key in keys if "@" not in key.model_name]  # LMCache refuses the others
    assert len(set(names.names(key.text() for key in possible))) == len(possible)


PART = st.text(st.characters(exclude_characters="@", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(PART, PART, PART, PART, PART | st.just("")), min_size=2, max_size=8, unique=True))
def test_different_keys_never_share_a_name(parts: list[tuple[str, ...]]) -> None:
    names = ObjectNames(FACTS)
    keys = {"@".join(part for part in key if part) for key in parts}
    assert len({names.name(key) for key in keys}) == len(keys)


@pytest.mark.parametrize("key", ["", "just a text", "a@b", "a@b@c", "@b@c@d", "model@r@g@h@salt@more", "model@r@@h"])
def test_keys_of_another_form_have_names_of_their_own_that_hide_what_may_be_a_salt(key: str) -> None:
    names = ObjectNames(FACTS)
    others = ["", "a@b", "@b@c@d", "model@r@g@h", "model@r@g@h@salt"]
    assert all(names.name(key) != names.name(other) for other in others if other != key)
    assert "salt" not in names.name(key)


def test_what_nobody_has_told_is_said_once_in_the_log_and_stands_in_the_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = "told-once/of-this-model"
    with caplog.at_level(logging.WARNING, "lmcache_connect"):
        for names in (ObjectNames({"dtype": "bfloat16"}), ObjectNames({"dtype": "bfloat16"})):
            names.name(f"{model}@00@0@aa")
            names.name(f"{model}@00@0@bb@salt")
    [line] = [record.getMessage() for record in caplog.records if model in record.getMessage()]
    assert "identity.kv_layout" in line
    assert "identity.revision" in line
    assert "identity.dtype" not in line
    assert ObjectNames({"dtype": "bfloat16"}).status()["unknown"] == ["kv_layout", "revision"]


def test_strict_identity_refuses_what_is_missing_and_names_it() -> None:
    for missing in FACTS:
        facts = {name: value for name, value in FACTS.items() if name != missing}
        with pytest.raises(InvalidConfigError, match=rf"strict_identity.*{missing}"):
            ObjectNames(facts, strict_identity=True)
    ObjectNames(FACTS, strict_identity=True)


@pytest.mark.parametrize(
    ("identity", "told"),
    [
        ({"model": "m"}, "adapter_params.identity.model"),
        ({"salt": "s"}, "adapter_params.identity.salt"),
        ({"colour": "blue"}, "identity.colour"),
        ({"dtype": 5}, "identity.dtype"),
        ("bfloat16", "adapter_params.identity"),
    ],
)
def test_a_wrong_identity_is_named(identity: Any, told: str) -> None:
    with pytest.raises(InvalidConfigError, match=told):
        ObjectNames(identity)


def test_every_pair_of_model_group_and_rank_has_a_name_of_its_own() -> None:
    names = ObjectNames(FACTS)
    keys = [
        f"{model}@{rank}@{group}@aa" for model, rank, group in itertools.product(("a/m", "b/m"), ("01", "02"), "01")
    ]
    assert len(set(names.names(keys))) == len(keys)
