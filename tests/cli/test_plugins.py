"""`lmcache-connect plugins`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .conftest import Ran

EXTRA = {
    "remote_storage_plugin.mini.module_path": "tests.foreign.strangers.minimal",
    "remote_storage_plugin.mini.class_name": "MinimalConnector",
    "remote_storage_plugin.bad.module_path": "tests.foreign.strangers.raising",
    "remote_storage_plugin.bad.class_name": "Anything",
}


@pytest.fixture
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_REMOTE_STORAGE_PLUGINS", '["mini", "bad"]')
    monkeypatch.setenv("LMCACHE_CONNECT_EXTRA_CONFIG", json.dumps(EXTRA))


@pytest.mark.usefixtures("_named")
def test_it_lists_what_was_found_from_where_and_whether_it_loads(invoke: Callable[..., Ran]) -> None:
    ran = invoke("plugins", "--json")
    assert ran.code == 0
    mini, bad = json.loads(ran.out)["plugins"][:2]
    assert mini["url"] == "plugin://mini"
    assert mini["target"] == "tests.foreign.strangers.minimal:MinimalConnector"
    assert mini["source"] == "configuration"
    assert mini["loads"] is True
    assert bad["loads"] is False
    assert "no such hardware" in bad["error"]


@pytest.mark.usefixtures("_named")
def test_the_table_says_why_one_does_not_load(invoke: Callable[..., Ran]) -> None:
    ran = invoke("plugins")
    assert ran.code == 0
    assert "plugin://mini" in ran.out
    assert "RuntimeError: no such hardware" in ran.out


def test_a_setting_that_cannot_be_understood_is_an_error(
    invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_REMOTE_STORAGE_PLUGINS", "mini")
    ran = invoke("plugins", "--json")
    assert ran.code != 0
    assert json.loads(ran.out)["ok"] is False
