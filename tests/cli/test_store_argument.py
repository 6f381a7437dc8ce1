"""Which store a command is for: argument, option, environment, settings file."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import typer

from lmcache_connect.cli.frame.store_argument import store_and_rest, store_urls

from .conftest import Ran


def test_the_first_argument_is_the_store(invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "memory://first")
    assert ran.code == 0
    assert ran.out.startswith("memory://first answers")


def test_an_argument_wins_over_the_environment(invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", "memory://environment")
    assert invoke("ping", "memory://first").out.startswith("memory://first ")
    assert invoke("ping", "--url", "memory://option").out.startswith("memory://option ")
    assert invoke("ping").out.startswith("memory://environment ")


def test_a_store_that_is_named_twice_is_refused(invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "memory://first", "--url", "memory://option")
    assert ran.code == 2
    assert "give it once" in ran.err


def test_no_store_says_the_four_ways_to_name_one(invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping")
    assert ran.code == 2
    for way in ("first argument", "--url", "LMCACHE_CONNECT_URL", "settings file"):
        assert way in ran.err


def test_wrong_usage_is_a_document_with_json(invoke: Callable[..., Ran]) -> None:
    ran = invoke("ping", "--json", "--frobnicate")
    assert ran.code == 2
    assert json.loads(ran.out)["ok"] is False


def test_what_follows_the_url_is_left_for_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = store_and_rest(["memory://m", "one", "two"], None)
    assert (found.url, found.rest) == ("memory://m", ("one", "two"))
    monkeypatch.setenv("LMCACHE_CONNECT_URL", "memory://environment")
    found = store_and_rest(["one"], None)
    assert (found.url, found.rest) == ("memory://environment", ("one",))


def test_several_stores_may_come_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", "memory://a memory://b")
    assert store_urls(None, None) == ["memory://a", "memory://b"]
    assert store_urls(["memory://c"], None) == ["memory://c"]
    with pytest.raises(typer.BadParameter, match="one way"):
        store_urls(["memory://c"], ["memory://d"])
