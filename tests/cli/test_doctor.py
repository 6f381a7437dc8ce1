"""`lmcache-connect doctor`: what is installed and set, and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect import __version__
from lmcache_connect.cli.settings.machine import machine_facts
from lmcache_connect.cli.settings.packages import PackageReport, list_packages

from .conftest import CANARY, Ran

Invoke = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LMCACHE_CONNECT_"):
            monkeypatch.delenv(name)


def document(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke("doctor", "--json", *arguments).out)
    return found


def settings_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


def test_where_nothing_is_wrong_it_says_so(invoke: Invoke) -> None:
    ran = invoke("doctor", "memory://store")
    assert ran.code == 0, ran.out
    assert __version__ in ran.out
    assert "memory://store" in ran.out
    assert ran.out.endswith("nothing is wrong\n")
    found = document(invoke)
    assert found["ok"] is True
    assert found["store"] is None
    assert {"Python", "event loop"} <= {fact["name"] for fact in found["machine"]}
    assert {engine["engine"] for engine in found["engines"]} == {"LMCache", "vLLM", "SGLang"}


def test_settings_that_are_not_defaults_are_shown_with_their_sources(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = settings_file(tmp_path, f"url = 'redis://:{CANARY.replace('/', '%2F').replace('@', '%40')}@h'\nretries = 7")
    monkeypatch.setenv("LMCACHE_CONNECT_STALL_TIMEOUT", "250ms")
    found = document(invoke, "--config", file, "redis://h?timeout=9s")
    assert found["settings"]["url"] == {"value": "redis://h", "from": "file", "place": f"{file}:1"}
    assert found["settings"]["retries"] == {"value": "7", "from": "file", "place": f"{file}:2"}
    assert found["settings"]["operation_timeout"] == {"value": "9s", "from": "URL", "place": ""}
    assert found["settings"]["stall_timeout"]["place"] == "LMCACHE_CONNECT_STALL_TIMEOUT"
    out = invoke("doctor", "--config", file).out
    assert "retries" in out
    assert "breaker_failures" not in out, "it has its default"
    assert "redis://:***@h" in out


@pytest.mark.parametrize(
    ("variables", "what", "advice"),
    [
        ({"LMCACHE_CONNECT_RETRYS": "1"}, "LMCACHE_CONNECT_RETRYS", "did you mean LMCACHE_CONNECT_RETRIES?"),
        ({"LMCACHE_CONNECT_API_PROT": "1"}, "LMCACHE_CONNECT_API_PROT", "did you mean LMCACHE_CONNECT_API_PORT?"),
        ({"LMCACHE_CONNECT_RETRIES": "often"}, "'retries'", "config show"),
        ({"LMCACHE_CONNECT_API_PORT": "70000"}, "'port'", "config show"),
        ({"LMCACHE_CONNECT_CONFIG": "/no/such.toml"}, "/no/such.toml cannot be read", "/no/such.toml"),
        ({"LMCACHE_CONNECT_URL": "reddis://h"}, "no adapter for the scheme 'reddis'", "schemes"),
        ({"LMCACHE_CONNECT_URL": "redis://h?tll=5"}, "unknown option 'tll'", "schemes"),
        ({"LMCACHE_CONNECT_URL": "rediss://h?ca_file=/no/such.pem"}, "/no/such.pem", "URL"),
        ({"LMCACHE_CONNECT_URL": "redis://h?password_env=NO_SUCH"}, "'password_env'", "URL"),
        ({"LMCACHE_CONNECT_REMOTE_STORAGE_PLUGINS": '["bad"]'}, "plugin://bad does not load", "install it"),
        ({"LMCACHE_CONNECT_MAX_LOCAL_CPU_BYTES": "1023TiB"}, "memory:", "lower max_local_cpu_bytes"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do_and_makes_it_1(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], what: str, advice: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = invoke("doctor")
    assert ran.code == 1, ran.out
    assert ran.err == ""
    (problem,) = document(invoke)["problems"]
    assert what in problem["what"]
    assert advice in problem["advice"]
    assert what in ran.out


def test_a_file_with_a_secret_that_others_may_read_is_a_problem(invoke: Invoke, tmp_path: Path) -> None:
    file = settings_file(tmp_path, "[api]\ntoken = 'quite-a-long-token'\n", 0o644)
    (problem,) = document(invoke, "--config", file)["problems"]
    assert "holds a secret" in problem["what"]
    assert problem["advice"] == f"chmod 600 {file}"
    assert "quite-a-long" not in invoke("doctor", "--config", file).out


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_it_fits_the_columns(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert all(len(line) <= max(48, int(columns)) for line in invoke("doctor", "memory://store").out.splitlines())


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.14.3", ">=2.7", True),
        ("2.6", ">=2.7", False),
        ("8.1.0", "<9,>=8", True),
        ("9.0", "<9,>=8", False),
        ("3.0rc1", ">=3", True),
        ("3", ">=3.0.0", True),
        ("1.5.0", "~=1.4", True),
        ("2.0", "~=1.4", False),
        ("1.0", "", True),
    ],
)
def test_a_release_fits_or_does_not(version: str, wanted: str, fits: bool) -> None:
    assert PackageReport("p", "", version, wanted).fits is fits


def test_the_packages_are_those_of_the_metadata() -> None:
    found = {package.package: package for package in list_packages()}
    if found:
        assert found["pydantic"].extra == ""
        assert found["typer"].extra == "cli"
        assert found["typer"].fits
        assert "pytest" not in found, "tests are nobody's need"


def test_an_arena_that_does_not_fit_is_advised_against() -> None:
    assert not [fact for fact in machine_facts(1 << 20) if fact.name == "memory" and fact.advice]
    assert [fact for fact in machine_facts(1 << 50) if fact.name == "memory" and fact.advice]
