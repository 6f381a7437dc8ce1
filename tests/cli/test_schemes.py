"""`lmcache-connect schemes`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcache_connect.cli.schemes.scheme_options import describe_options
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


def test_a_scheme_lists_its_options_with_kind_default_and_meaning(invoke: Callable[..., Ran]) -> None:
    (redis,) = json.loads(invoke("schemes", "redis", "--json").out)["schemes"]
    options = {option["name"]: option for option in redis["options"]}
    assert (options["ttl"]["kind"], options["ttl"]["default"]) == ("duration", None)
    assert (options["stripe"]["kind"], options["stripe"]["default"]) == ("size", "1MiB")
    assert options["io"]["kind"] == "auto or thread or loop"
    assert options["connect_timeout"]["default"] == "5s"
    assert options["errors"]["text"] == "`raise` or `miss`."


def test_every_option_of_every_scheme_says_what_it_does() -> None:
    registry = AdapterRegistry()
    for scheme in registry.schemes():
        for report in describe_options(scheme.replace("<scheme>", "redis"), registry):
            assert report.shape or report.options is None, report.scheme
            for option in report.options or ():
                assert option.text, f"{report.scheme}: {option.name}"
                assert option.kind


def test_a_wrapped_scheme_lists_the_options_of_both(invoke: Callable[..., Ran]) -> None:
    ran = invoke("schemes", "hot+s3://user:secret@bucket")
    assert ran.code == 0
    assert (
        ran.out.index("hot+s3://") < ran.out.index("hot_bytes") < ran.out.index("\ns3://") < ran.out.index("endpoint")
    )
    assert "secret@" not in ran.out


def test_an_unknown_scheme_names_the_similar_one(invoke: Callable[..., Ran]) -> None:
    ran = invoke("schemes", "reddis")
    assert ran.code == 2
    assert "did you mean 'redis'?" in ran.err


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_the_options_fit_the_columns(invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = invoke("schemes", "redis").out
    assert "credentials_timeout" in out
    assert all(len(line) <= int(columns) for line in out.splitlines()[2:])
