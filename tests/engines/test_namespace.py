"""Keys that say whose bytes they are: other identities have other keys, and no two things have one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any, Final
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmcache_connect.engines.identity import Identity
from lmcache_connect.engines.label import MAX_LABEL, NO_LABEL, label, label_of_salt
from lmcache_connect.engines.namespace import MAX_RAW, Namespace
from lmcache_connect.errors import InvalidConfigError, InvalidKeyError
from lmcache_connect.keys import MAX_KEY_BYTES, check_key_string

KNOWN: Final = Identity(
    model="meta-llama/Llama-3.1-8B-Instruct",
    engine="vllm",
    revision="0e9e39f",
    dtype="bfloat16",
    kv_layout="NHD",
    tokens_per_chunk=256,
    parallel_shape={"tp": 2, "pp": 1},
    rank=1,
    tenant="acme",
)

texts = st.text(st.characters(), min_size=1, max_size=80)
"""Any characters: lone surrogates, control characters and the format's own signs among them."""
awkward = st.text(st.sampled_from("a~@%/-_.s x0h\x00\x1f\x7f\ud800é"), min_size=1, max_size=80)
names = texts | awkward
unhurried = settings(deadline=None)  # the machine may be busy
binary = st.binary(min_size=1, max_size=80)
facts = names | st.integers() | st.booleans() | st.none()
identities = st.builds(
    Identity,
    model=names,
    engine=names,
    record_kind=names,
    revision=st.none() | names,
    fingerprint=st.none() | names,
    dtype=st.none() | names,
    kv_layout=st.none() | names,
    tokens_per_chunk=st.none() | st.integers(0, 1 << 20),
    parallel_shape=st.dictionaries(names, st.integers(0, 64), max_size=3),
    rank=st.none() | st.integers(0, 64),
    tenant=st.none() | names,
    salt=st.none() | names | binary,
    more=st.dictionaries(names, facts, max_size=3),
)


def typed(identity: Identity) -> Any:
    """What distinguishes an identity from others: True and 1 are equal in Python, and are not here."""
    return [(name, repr(getattr(identity, name))) for name in Identity.field_names()]


# ------------------------------------------------------------------------------------------- no two have one


@unhurried
@given(identities, identities)
@example(Identity("m", "e", revision="\ud800\udc00"), Identity("m", "e", revision="\U00010000"))
@example(Identity("m", "e", more={"a": True}), Identity("m", "e", more={"a": 1}))
@example(Identity("m", "e", salt="s"), Identity("m", "e", salt=b"s"))
@example(Identity("m", "e", rank=None), Identity("m", "e", rank=0))
def test_different_identities_have_different_keys(one: Identity, other: Identity) -> None:
    assert (Namespace(one).prefix == Namespace(other).prefix) == (typed(one) == typed(other))
    assert (one.canonical() == other.canonical()) == (typed(one) == typed(other))


@unhurried
@given(identities, st.data())
def test_another_value_in_any_one_field_is_another_prefix(identity: Identity, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(Identity.field_names()))
    fields = {each: getattr(identity, each) for each in Identity.field_names()}
    other = Identity(**{**fields, name: getattr(data.draw(identities), name)})
    assert (Namespace(identity).prefix == Namespace(other).prefix) == (typed(identity) == typed(other))


@unhurried
@given(names | binary, names | binary)
@example("~x61", b"a")
@example("~7e", "~")
@example("\ud800\udc00", "\U00010000")
@example("~h" + "0" * 64, "x" * (MAX_RAW + 1))
def test_different_keys_of_an_engine_have_different_keys(one: str | bytes, other: str | bytes) -> None:
    namespace = Namespace(KNOWN)
    assert (namespace.key(one) == namespace.key(other)) == (one == other)


@unhurried
@given(st.text(st.sampled_from("ab~"), min_size=MAX_RAW - 3, max_size=MAX_RAW + 3), st.integers(1, 3))
def test_long_keys_of_an_engine_stay_apart(raw: str, more: int) -> None:
    namespace = Namespace(KNOWN)
    assert len({namespace.key(each) for each in (raw, raw + "a" * more, raw[:-1] + "c", raw.encode())}) == 4


@unhurried
@given(names, names)
def test_different_names_have_different_labels(one: str, other: str) -> None:
    assert (label(one) == label(other)) == (one == other)


@unhurried
@given(st.text(st.sampled_from("ab~ "), min_size=MAX_LABEL - 3, max_size=MAX_LABEL * 3), st.integers(1, 3))
def test_long_names_have_different_labels(name: str, more: int) -> None:
    assert len({label(name), label(name + "a" * more), label(name[:-1] + "c"), label("b" + name)}) == 4


@unhurried
@given(names, names | binary)
def test_no_name_has_the_label_of_a_salt_or_of_nobody(name: str, salt: str | bytes) -> None:
    assert label(name) not in (label_of_salt(salt), NO_LABEL)


@unhurried
@given(binary)
def test_a_salt_of_bytes_is_not_the_text_with_the_same_bytes(salt: bytes) -> None:
    assert label_of_salt(salt) != label_of_salt(salt.decode("latin-1"))


# -------------------------------------------------------------------------------------------------- the string


@unhurried
@given(identities, names | binary)
def test_every_key_is_valid_and_bounded_and_gives_the_engines_key(identity: Identity, raw: str | bytes) -> None:
    namespace = Namespace(identity)
    key = namespace.key(raw)
    assert check_key_string(key) == key
    assert len(key.encode()) <= 3 + 2 * MAX_LABEL + 32 + 4 + MAX_RAW < MAX_KEY_BYTES
    version, model, tenant, digest, _ = key.split("@", 4)
    assert (version, model, tenant, digest) == (
        "lc1",
        namespace.model_label,
        namespace.tenant_label,
        namespace.digest,
    )
    assert len(digest) == 32
    assert namespace.raw(key) == raw
    assert key.startswith(namespace.tenant_prefix)
    assert namespace.tenant_prefix.startswith(namespace.model_prefix)


def test_the_key_of_a_long_key_holds_a_digest_and_does_not_give_it() -> None:
    namespace = Namespace(KNOWN)
    key = namespace.key("x" * 5000)
    assert len(key) < 300
    assert namespace.raw(key) is None


def test_another_namespaces_key_gives_nothing() -> None:
    other = Namespace(Identity(model="m", engine="e"))
    assert Namespace(KNOWN).raw(other.key("k")) is None
    assert Namespace(KNOWN).raw("k") is None


def test_the_exact_string() -> None:
    namespace = Namespace(KNOWN)
    assert namespace.key("a@b") == f"lc1@Llama-3.1-8B-Instruct@acme@{namespace.digest}@a@b"
    assert namespace.key(b"\x00\xff") == f"{namespace.prefix}~x00ff"
    assert namespace.key("a~\n") == f"{namespace.prefix}a~7e~0a"
    # A change of this digest makes every stored chunk a miss: it needs another version in the key.
    assert namespace.digest == "d6066f7466ec939ed23582fc97998570"
    assert (
        namespace.key("x" * 513)
        == f"{namespace.prefix}~h1ccf0453c26435e7342cdd3f9802bec45670ddc6bc3ea1dc576a8e7b89d931af"
    )


def test_the_canonical_form_is_json_with_the_names_in_order() -> None:
    text = KNOWN.canonical()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()
    assert json.loads(text)["parallel_shape"] == {"tp": 2, "pp": 1}


def test_another_process_makes_the_same_key() -> None:
    code = (
        "from tests.engines.test_namespace import KNOWN, Namespace; print(Namespace(KNOWN).with_salt('salt').key('k'))"
    )
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        )
        assert done.stdout.strip() == Namespace(KNOWN).with_salt("salt").key("k")


def test_the_order_of_named_values_does_not_matter() -> None:
    one = Identity(model="m", engine="e", parallel_shape={"tp": 2, "pp": 1}, more={"a": 1, "b": None})
    other = Identity(model="m", engine="e", parallel_shape=(("pp", 1), ("tp", 2)), more={"b": None, "a": 1})
    assert one == other
    assert Namespace(one).prefix == Namespace(other).prefix


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B"),
        ("/models/qwen/", "qwen"),
        ("Qwen2.5", "Qwen2.5"),
        ("a b", "a~20b"),
        ("/", "~2f"),
        ("x" * 65, "x" * 30 + "~~"),
    ],
)
def test_the_models_short_name_is_readable(model: str, shown: str) -> None:
    namespace = Namespace(Identity(model=model, engine="e"))
    assert namespace.model_label.startswith(shown)
    assert len(namespace.model_label) <= MAX_LABEL


@pytest.mark.parametrize("raw", ["", b"", None, 7])
def test_what_is_not_a_key_is_refused(raw: Any) -> None:
    with pytest.raises(InvalidKeyError):
        Namespace(KNOWN).key(raw)


# ------------------------------------------------------------------------------------------------ tenants, salts


def test_no_key_status_or_message_shows_a_salt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lmcache_connect")
    salt = uuid4().hex
    identity = Identity(model=uuid4().hex, engine="e", salt=salt)
    namespace = Namespace(identity)
    with pytest.raises(InvalidConfigError) as caught:
        identity.completed({"salt": "another one"})
    shown = [namespace.key("k"), repr(namespace), repr(identity), str(namespace.status()), str(caught.value)]
    shown += [record.getMessage() for record in caplog.records]
    assert len(shown) > 5
    assert not [text for text in shown if salt in text or salt.encode().hex() in text]


def test_salts_isolate_tenants_also_where_the_operator_names_them() -> None:
    namespace = Namespace(KNOWN)
    one, other = namespace.with_salt("one"), namespace.with_salt("other")
    assert len({namespace.prefix, one.prefix, other.prefix}) == 3
    assert {each.tenant_label for each in (namespace, one, other)} == {"acme"}
    assert namespace.with_salt("one") is one
    unnamed = Namespace(Identity(model="m", engine="e"))
    assert unnamed.tenant_label == NO_LABEL
    assert unnamed.with_salt("one").tenant_label == label_of_salt("one")


def test_many_salts_take_bounded_memory() -> None:
    namespace = Namespace(KNOWN)
    first = namespace.with_salt("0").prefix
    for number in range(3000):
        namespace.with_salt(str(number))
    assert len(namespace._salted) <= 1024
    assert namespace.with_salt("0").prefix == first


# ------------------------------------------------------------------------------------------ what is not known


def test_what_is_not_known_is_told_once_with_what_to_write(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lmcache_connect")
    identity = Identity(model=uuid4().hex, engine="vllm", dtype="float16")
    namespace = Namespace(identity)
    namespace.with_salt("s")
    Namespace(identity)
    assert namespace.unknown == ("kv_layout", "revision")
    assert namespace.status()["unknown"] == ["kv_layout", "revision"]
    assert len(caplog.records) == 1
    line = caplog.records[0].getMessage()
    assert line.startswith("identity_unknown engine=vllm")
    for part in ("cannot_tell_apart=kv_layout, revision", "identity.kv_layout", "identity.revision", "fingerprint"):
        assert part in line
    assert "identity.dtype" not in line


def test_a_fingerprint_stands_for_the_revision() -> None:
    assert Identity(model="m", engine="e", dtype="f", kv_layout="l", fingerprint="abc").unknown == ()


def test_strict_identity_refuses_what_is_not_known() -> None:
    assert Namespace(KNOWN, strict_identity=True).unknown == ()
    with pytest.raises(InvalidConfigError, match=r"strict_identity.*identity\.dtype.*identity\.revision"):
        Namespace(Identity(model="m", engine="e", kv_layout="l"), strict_identity=True)


def test_strict_identity_is_a_boolean() -> None:
    for wrong in ("false", "yes", 1):
        with pytest.raises(InvalidConfigError, match=r"strict_identity.*expected true or false, without quotes"):
            Namespace(KNOWN, strict_identity=wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- what the operator adds


def test_the_operator_completes_what_the_engine_does_not_tell() -> None:
    engines = Identity(model="m", engine="vllm", dtype="float16", parallel_shape={"tp": 2})
    done = engines.completed(
        {"revision": "main", "tenant": "acme", "parallel_shape": {"pp": 4}, "more": {"rope": 2}, "dtype": "float16"}
    )
    assert (done.revision, done.tenant, done.dtype) == ("main", "acme", "float16")
    assert done.parallel_shape == (("pp", 4), ("tp", 2))
    assert done.more == (("rope", 2),)
    assert engines.completed(None) == engines.completed({}) == engines.completed({"revision": None}) == engines


@pytest.mark.parametrize(
    ("given_fields", "named"),
    [
        ({"dtype": "bfloat16"}, r"identity\.dtype.*the engine itself has 'float16'"),
        ({"parallel_shape": {"tp": 4}}, r"identity\.parallel_shape.*another tp"),
        ({"nosuch": 1}, r"identity\.nosuch.*expected one of model, engine"),
        ({"revision": 7}, r"identity\.revision.*7; expected a text"),
        ({"revision": ""}, r"identity\.revision"),
        ({"rank": -1}, r"identity\.rank"),
        ({"rank": True}, r"identity\.rank"),
        ({"tokens_per_chunk": "256"}, r"identity\.tokens_per_chunk"),
        ({"more": [1, 2]}, r"identity\.more"),
        ({"more": {"a": 1.5}}, r"identity\.more.*expected texts, whole numbers"),
        (["revision"], r"identity.*a list; expected fields by name"),
        ("revision", r"identity.*a str; expected fields by name"),
        ({"parallel_shape": {"pp": "1"}}, r"identity\.parallel_shape.*whole numbers by name"),
        ({"parallel_shape": 4}, r"identity\.parallel_shape.*whole numbers by name"),
        ({"salt": 7}, r"identity\.salt"),
    ],
)
def test_what_the_operator_writes_wrong_is_named(given_fields: Any, named: str) -> None:
    engines = Identity(model="m", engine="vllm", dtype="float16", parallel_shape={"tp": 2})
    with pytest.raises(InvalidConfigError, match=named):
        engines.completed(given_fields)


@pytest.mark.parametrize("field", ["model", "engine", "record_kind"])
@pytest.mark.parametrize("value", ["", None, 7])
def test_an_identity_without_its_names_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidConfigError, match=rf"identity\.{field}"):
        Identity(**{"model": "m", "engine": "e", field: value})
