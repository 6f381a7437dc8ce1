"""A known secret is found in any text, however it is written there, for as long as it is in use."""

from __future__ import annotations

import base64
import gc
import html
import json
import re
import threading
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from lmcache_connect import ConnectorConfig, RemoteURL, StoreUnavailableError
from lmcache_connect.known_secrets import (
    FOREIGN_LIMIT,
    HIDDEN,
    LEFT_OUT,
    Holder,
    clean,
    clean_foreign,
    know,
    known_count,
)

from .inputs import inputs

STRONG: Final = "hunter2/canary+42"

WRITTEN: Final[dict[str, Callable[[str], str]]] = {
    "as it is": str,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded in small letters": lambda text: re.sub(r"%..", lambda found: found.group().lower(), quote(text)),
    "as a form": quote_plus,
    "by repr": repr,
    "by repr, as bytes": lambda text: repr(text.encode("utf-8", "surrogatepass")),
    "by repr, with both quotes": lambda text: repr(f"'\"{text}"),
    "by repr of a repr": lambda text: repr(repr(text)),
    "in JSON": json.dumps,
    "in JSON, in JSON": lambda text: json.dumps(json.dumps(text)),
    "in HTML": html.escape,
    "in hexadecimal": lambda text: text.encode("utf-8", "surrogatepass").hex(),
    "in base64": lambda text: base64.b64encode(text.encode("utf-8", "surrogatepass")).decode(),
    "in base64, behind a user": lambda text: base64.b64encode(f"me:{text}".encode("utf-8", "surrogatepass")).decode(),
    "in base64, inside": lambda text: base64.b64encode(f"m:{text}!".encode("utf-8", "surrogatepass")).decode(),
    "in base64 of URLs": lambda text: base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode(),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_secret_is_hidden_however_it_is_written(how: str) -> None:
    written = WRITTEN[how](STRONG)
    owner = know(Holder(), STRONG)
    for text in (clean(f"it said <{written}> twice {written}"), clean_foreign(f"it said <{written}> twice {written}")):
        assert written not in text
        assert HIDDEN in text
        assert text.startswith("it said ")
    del owner


@pytest.mark.parametrize("secret", ["a", "abc", "1234567", "password", "hit_prefix", "10.0.0.1"])
def test_a_short_secret_or_a_word_drops_a_foreign_text_and_never_mangles_ours(secret: str) -> None:
    owner = know(Holder(), secret)
    ours = f"the password of a store is wrong at 10.0.0.1: hit_prefix 1234567 abc {secret}"
    assert clean(ours) == ours
    assert clean_foreign(f"unknown <{secret.upper()}> called") == LEFT_OUT
    assert clean_foreign("UNKNOWN: 98") == "UNKNOWN: 98" or secret == "a"
    del owner


@pytest.mark.parametrize("part", [STRONG[:9], STRONG[-9:], STRONG[3:12]])
def test_a_foreign_text_with_a_part_of_a_secret_is_dropped(part: str) -> None:
    owner = know(Holder(), STRONG)
    assert clean_foreign(f"args beginning with: '{part}") == LEFT_OUT
    del owner


def test_a_secret_that_is_cut_where_a_foreign_text_is_cut_is_not_seen_in_part() -> None:
    owner = know(Holder(), STRONG)
    for at in range(FOREIGN_LIMIT - len(STRONG) - 2, FOREIGN_LIMIT + 2):
        shown = clean_foreign("." * at + STRONG + "." * 100)
        assert len(shown) <= FOREIGN_LIMIT + 3
        assert STRONG[:4] not in shown
    del owner


def test_a_secret_is_forgotten_when_its_owner_is_gone() -> None:
    gc.collect()
    before = known_count()
    owners = [know(SecretStr(f"{STRONG}-{number}"), f"{STRONG}-{number}") for number in range(100)]
    assert known_count() == before + 100
    assert clean(f"{STRONG}-99") == HIDDEN
    del owners
    gc.collect()
    assert known_count() <= before
    assert clean(f"{STRONG}-99") == f"{STRONG}-99"


def test_a_thousand_urls_with_one_password_leave_nothing_behind() -> None:
    gc.collect()
    before = known_count()
    urls = [RemoteURL.parse(f"redis://u:{STRONG.replace('/', '%2F')}@h{number}") for number in range(1000)]
    assert before < known_count() <= before + 3
    copies = [url.model_copy() for url in urls[:3]]
    del urls
    gc.collect()
    assert STRONG not in clean(STRONG)
    del copies
    gc.collect()
    assert known_count() <= before


def test_with_too_many_secrets_no_foreign_text_is_shown() -> None:
    owner = know(Holder(), *(f"{STRONG}{number}" for number in range(1100)))
    assert clean_foreign("all is well") == LEFT_OUT
    assert clean(f"{STRONG}1099") == HIDDEN
    del owner


def test_secrets_come_and_go_in_threads_while_texts_are_cleaned() -> None:
    owner = know(Holder(), STRONG)
    is_over = threading.Event()

    def come_and_go() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            know(SecretStr(""), f"{STRONG}-{number}")

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        found = {clean(f"x {STRONG} y") for _ in range(2000)}
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert found == {"x *** y"}
    del owner


def test_an_error_holds_no_known_secret_in_its_text_and_its_fields() -> None:
    owner = know(Holder(), STRONG)
    error = StoreUnavailableError("redis://h", f"the peer said {STRONG}")
    assert str(error) == "redis://h: the peer said ***"
    assert STRONG not in repr(error) + repr(vars(error)) + repr(error.args)
    del owner


@pytest.mark.parametrize(
    "extra",
    [
        {"my.password": STRONG},
        {"my": {"auth_token": [STRONG]}},
        {"my.endpoint": f"https://user:{quote(STRONG, safe='')}@h/path"},
        {"my.endpoint": f"https://h/path?sig={quote(STRONG, safe='')}"},
        {"my.secrets": {"one": {"two": STRONG}}},
    ],
)
def test_the_secrets_of_extra_config_are_known_while_the_settings_live(extra: dict[str, object]) -> None:
    config = ConnectorConfig.load(extra_config=extra)
    assert clean(f"say {STRONG}") == "say ***"
    copied = config.model_copy(update={"retries": 1})
    del config
    gc.collect()
    assert clean(f"say {STRONG}") == "say ***"
    del copied


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{quote(STRONG, safe='')}@h",
        f"redis://h?auth_token={quote(STRONG, safe='')}",
        f"redis://h?from={quote('redis://u:' + quote(STRONG, safe='') + '@h', safe='')}",
        f"redis://h?from={quote('http://h/?sig=' + quote(STRONG, safe=''), safe='')}",
    ],
)
def test_the_secrets_of_a_url_and_of_urls_in_its_options_are_known_while_it_lives(url: str) -> None:
    parsed = RemoteURL.parse(url)
    assert clean(f"say {STRONG}") == "say ***"
    assert STRONG not in str(parsed)
    assert quote(STRONG, safe="") not in str(parsed)
    del parsed


@pytest.mark.parametrize("name", ["password_file", "token_env", "ca_key_path"])
def test_a_name_of_where_a_secret_is_makes_nothing_known(name: str) -> None:
    gc.collect()
    before = known_count()
    url = RemoteURL.parse(f"redis://h?{name}=/run/secrets/a-file-1&auth=true&token_ttl=300")
    assert known_count() == before
    del url


# ------------------------------------------------------------------------------------------------- any secret


def of_length(shortest: int) -> st.SearchStrategy[str]:
    letters = st.sampled_from("aB3@:/?#&;=[]%,+ \\'\".!$()~-_\n\t\x7f€é")
    others = st.characters(exclude_categories=["Cs"], exclude_characters="*")
    return st.text(letters | others, min_size=shortest, max_size=40)


secrets = of_length(1)
around = st.text(max_size=30).filter(str.isprintable)  # what is not is escaped, with digits and letters


@given(secrets, around, around, st.sampled_from(sorted(WRITTEN)))
@example("0" * 7 + "/'\"\\", "'", '"', "by repr of a repr")
@inputs(400)
def test_no_secret_is_seen_in_a_foreign_text(secret: str, before: str, after: str, how: str) -> None:
    written = WRITTEN[how](secret)
    owner = know(Holder(), secret)
    shown = clean_foreign(f"{before}{written}{after}")
    if shown != LEFT_OUT:
        assert secret not in shown
        assert len(secret) < 8 or written not in shown
    del owner


@given(of_length(8), around, around, st.integers(0, 32), st.integers(8, 40))
@inputs(100)
def test_no_part_of_a_long_secret_is_seen_in_a_foreign_text(
    secret: str, before: str, after: str, at: int, length: int
) -> None:
    part = secret[at : at + length]
    assume(len(part) >= 8)
    owner = know(Holder(), secret)
    shown = clean_foreign(f"{before}{part}{after}")
    assert shown == LEFT_OUT or part not in shown
    del owner


@given(of_length(16), around, around, st.sampled_from(sorted(WRITTEN)))
@inputs(100)
def test_a_long_secret_is_seen_in_no_text(secret: str, before: str, after: str, how: str) -> None:
    assume(len(set(secret)) > 3)
    written = WRITTEN[how](secret)
    assume(len(written) >= 8)
    owner = know(Holder(), secret)
    shown = clean(f"{before}{written}{after}")
    assert secret not in shown
    assert written not in shown
    del owner


@given(st.text(max_size=200))
@inputs(200)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assume(STRONG[:8].casefold() not in text.casefold())
    owner = know(Holder(), STRONG)
    assert clean(text) == text
    shown = clean_foreign(text)
    assert shown == text if text.isprintable() else shown.isprintable()
    del owner
