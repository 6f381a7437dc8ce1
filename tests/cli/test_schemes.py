"""`lmcache-connect schemes`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcache_connect.cli.schemes.schemes import list_schemes
from lmcache_connect.manager import AdapterRegistry, AdapterTarget
from lmcache_connect.manager.builtin import ADAPTERS

from .conftest import Ran


def test_every_known_scheme_is_in_the_table(invoke: Callable[..., Ran]) -> None:
    ran = invoke("schemes")
    assert ran.code == 0
    assert ran.err == ""
    for scheme in AdapterRegistry().schemes():
        assert f"{scheme}://" in ran.out


def test_json_tells_who_answers_and_what_a_url_may_say(invoke: Callable[..., Ran]) -> None:
    found = {item["scheme"]: item for item in json.loads(invoke("schemes", "--json").out)["schemes"]}
    assert found["redis"]["loads"] is True
    assert found["redis"]["error"] is None
    assert "RedisConnectorAdapter" in found["redis"]["adapter"]
    assert "pool_size" in found["redis"]["options"]


def test_an_adapter_that_does_not_load_says_why(invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    target = AdapterTarget("broken", "no_such_module:Adapter", "some-distribution", "redis")
    monkeypatch.setitem(ADAPTERS, "broken", target)
    ran = invoke("schemes")
    assert ran.code == 0
    assert "no_such_module" in ran.out
    assert "some-distribution" in ran.out
    found = {item.scheme: item for item in list_schemes(AdapterRegistry())}
    assert not found["broken"].loads
    assert found["redis"].loads, "the others are not disturbed"


def test_what_a_plug_in_prints_is_no_part_of_the_document(
    invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "chatty_plug_in.py").write_text("print('hello')\nraise SystemExit(3)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ADAPTERS, "chatty", AdapterTarget("chatty", "chatty_plug_in:Adapter", "chatty"))
    ran = invoke("schemes", "--json")
    sys.modules.pop("chatty_plug_in", None)
    found = {item["scheme"]: item for item in json.loads(ran.out)["schemes"]}
    assert "SystemExit" in found["chatty"]["error"]
    assert ran.err == "hello\n"
