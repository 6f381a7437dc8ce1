"""`lmcache-connect engines`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lmcache_connect.engines.lmcache import NativeClient

from .conftest import CANARY, Ran

MINIMAL = "@h:1/tests.foreign.strangers.minimal/?connector_name=MinimalConnector"
WAYS = {
    "lmcache": ["server, native_plugin", "server, plugin"],
    "vllm": ["secondary tier"],
    "sglang": ["HiCache storage"],
}


def objects(text: str) -> list[Any]:
    """The JSON objects among the words of a command line."""
    return [json.loads(word) for word in shlex.split(text) if word.startswith("{")]


def texts(ran: Ran) -> dict[str, list[str]]:
    assert ran.code == 0, ran.err
    return {engine["package"]: [each["text"] for each in engine["texts"]] for engine in json.loads(ran.out)["engines"]}


def urls(ran: Ran) -> set[str]:
    """Every value of `url` in the texts."""
    return {found for each in texts(ran).values() for text in each for found in re.findall(r'"url": "([^"]*)"', text)}


def test_without_a_url_it_tells_which_engines_are_installed(invoke: Callable[..., Ran]) -> None:
    ran = invoke("engines", "--json")
    assert ran.code == 0
    for engine in json.loads(ran.out)["engines"]:
        try:
            version = importlib.metadata.version(engine["package"])
        except importlib.metadata.PackageNotFoundError:
            version = None
        assert engine["version"] == version
        assert engine["texts"] == []


def test_every_text_is_a_command_line_whose_json_names_classes_that_are_there(invoke: Callable[..., Ran]) -> None:
    ran = invoke("engines", "--url", "redis://it's@store:6379/2?ttl=60", "--json")
    found = json.loads(ran.out)["engines"]
    assert {engine["package"]: [each["way"] for each in engine["texts"]] for engine in found} == WAYS
    for package, lines in texts(ran).items():
        for text in lines:
            [given] = objects(text)
            module = re.search(r'"module_path": "([^"]+)"', json.dumps(given))
            name = re.search(r'"(?:class_name|type)": "([A-Z]\w+)"', json.dumps(given))
            assert module is not None
            assert name is not None
            assert module[1] == f"lmcache_connect.engines.{package}"
            spec = importlib.util.find_spec(module[1])
            assert spec is not None
            assert spec.origin is not None
            assert name[1] in Path(spec.origin).read_text()
            assert "redis://it's@store:6379/2?ttl=60" in json.dumps(given)


def test_the_text_for_lmcache_makes_a_client(invoke: Callable[..., Ran]) -> None:
    arguments = ("--revision", "0a1b2c3", "--dtype", "bfloat16", "--kv-layout", "NHD", "--tenant", "blue")
    ran = invoke("engines", "--url", "redis://store:6379", *arguments, "--json")
    [adapter] = objects(texts(ran)["lmcache"][0])
    client = NativeClient(**adapter["adapter_params"], strict_identity=True)
    assert client.report_status()["identity"]["unknown"] == []
    client.close()


@pytest.mark.parametrize("scheme", ["redis", "hot+redis"])
def test_a_password_is_read_from_the_environment(invoke: Callable[..., Ran], scheme: str) -> None:
    ran = invoke("engines", "--url", f"{scheme}://user:{quote(CANARY, safe='')}@store:6379?ttl=60", "--json")
    assert urls(ran) == {f"{scheme}://user@store:6379?ttl=60&password_env=STORE_PASSWORD"}
    assert any("STORE_PASSWORD" in note for note in json.loads(ran.out)["notes"])


def test_a_password_that_is_elsewhere_already_stays_there(invoke: Callable[..., Ran]) -> None:
    url = "redis://store:6379?password_file=/run/secrets/store"
    assert urls(invoke("engines", "--url", url, "--json")) == {url}


def test_a_callable_for_credentials_is_left_out_and_said(
    invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "tests.adapters.lmcache_connect_redis.logins"
    monkeypatch.setenv("LMCACHE_CONNECT_ALLOWED_MODULES", json.dumps([module]))
    ran = invoke("engines", "--url", f"redis://store:6379?ttl=60&credentials={module}:login", "--json")
    assert urls(ran) == {"redis://store:6379?ttl=60"}
    assert any("LMCACHE_CONNECT_ALLOWED_MODULES" in note for note in json.loads(ran.out)["notes"])


def test_what_another_store_cannot_read_from_the_environment_is_left_out_and_said(
    invoke: Callable[..., Ran],
) -> None:
    ran = invoke("engines", "--url", f"external://user:{quote(CANARY, safe='')}{MINIMAL}", "--json")
    assert urls(ran) == {f"external://user{MINIMAL}"}
    assert any("left out" in note for note in json.loads(ran.out)["notes"])


def test_people_can_copy_each_text_whole(invoke: Callable[..., Ran]) -> None:
    url = "redis://store:6379?ttl=60&prefix=" + "long" * 30
    shown = invoke("engines", "--url", url)
    assert shown.code == 0
    lines = shown.out.splitlines()
    for each in texts(invoke("engines", "--url", url, "--json")).values():
        assert all(text in lines for text in each)


@pytest.mark.parametrize("url", ["redis://h:0x", "nothing://h", "redis://h?tll=5"])
def test_a_url_that_is_not_understood_is_an_error(invoke: Callable[..., Ran], url: str) -> None:
    ran = invoke("engines", "--url", url, "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["ok"] is False


@pytest.mark.parametrize("option", ["--revision", "--dtype", "--kv-layout", "--tenant"])
def test_an_empty_name_is_refused_since_no_engine_would_start_with_it(invoke: Callable[..., Ran], option: str) -> None:
    ran = invoke("engines", "--url", "redis://h", option, "")
    assert ran.code == 2
    assert option in ran.err
    assert "it is empty; expected a name" in ran.err
