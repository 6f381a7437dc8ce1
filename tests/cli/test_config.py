"""`lmcache-connect config`: the settings in effect, and a settings file to begin with."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcache_connect import ConnectorConfig
from lmcache_connect.cli.settings.defaults_file import defaults_file
from lmcache_connect.internal_api_server import APIServerConfig

from .conftest import Ran

Invoke = Callable[..., Ran]


def test_every_setting_is_shown_with_its_source(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_RETRIES", "5")
    monkeypatch.setenv("LMCACHE_CONNECT_API_TOKEN", "quite-a-long-token")
    found = json.loads(invoke("config", "show", "--json").out)
    names = {*ConnectorConfig.model_fields, *(f"api.{name}" for name in APIServerConfig.model_fields)}
    assert set(found["settings"]) == names
    assert found["settings"]["retries"] == {"value": "5", "from": "environment", "place": "LMCACHE_CONNECT_RETRIES"}
    assert found["settings"]["stall_timeout"] == {"value": "3s", "from": "default", "place": ""}
    assert found["settings"]["max_local_cpu_bytes"]["value"] == "1GiB"
    assert found["settings"]["api.token"]["value"] == "***"
    ran = invoke("config", "show")
    assert ran.code == 0
    assert re.search(r"^retries +5 +environment LMCACHE_CONNECT_RETRIES$", ran.out, re.MULTILINE)
    assert "quite-a-long" not in ran.out


def test_the_options_of_a_url_and_of_those_inside_it_win(invoke: Invoke) -> None:
    found = json.loads(invoke("config", "show", "--json", "hot+redis://h?hot_ttl=5&timeout=2s").out)
    assert found["settings"]["operation_timeout"] == {"value": "2s", "from": "URL", "place": ""}


def test_the_options_of_the_url_in_the_settings_are_in_effect(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", "redis://h?errors=miss&timeout=2s")
    found = json.loads(invoke("config", "show", "--json").out)["settings"]
    assert found["errors"] == {"value": "miss", "from": "URL", "place": ""}
    assert found["operation_timeout"] == {"value": "2s", "from": "URL", "place": ""}
    other = json.loads(invoke("config", "show", "--json", "redis://other").out)["settings"]
    assert other["errors"] == {"value": "raise", "from": "default", "place": ""}


def test_of_several_stores_in_the_settings_no_options_are_shown(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", "redis://a?errors=miss redis://b")
    found = json.loads(invoke("config", "show", "--json").out)["settings"]
    assert found["errors"] == {"value": "raise", "from": "default", "place": ""}


def test_a_wrong_option_of_the_url_in_the_settings_is_an_error(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", "redis://h?eror=miss")
    ran = invoke("config", "show", "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["error"]["type"] == "UnknownOptionError"


def test_a_wrong_setting_is_an_error(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_RETRIES", "often")
    ran = invoke("config", "show", "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["error"]["type"] == "InvalidConfigError"


def test_the_file_of_defaults_changes_nothing_as_it_is(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    ran = invoke("config", "init", str(path))
    assert ran.code == 0
    assert path.read_text(encoding="utf-8") == invoke("config", "show", "--defaults").out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tomllib.loads(path.read_text(encoding="utf-8")) == {"api": {}}
    assert ConnectorConfig.from_file(path) == ConnectorConfig.load()


def test_the_file_of_defaults_does_not_replace_a_file(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("retries = 1\n", encoding="utf-8")
    ran = invoke("config", "init", str(path))
    assert ran.code == 2
    assert "exists" in ran.err
    assert path.read_text(encoding="utf-8") == "retries = 1\n"


def test_the_defaults_in_the_file_are_the_defaults(tmp_path: Path) -> None:
    lines = [line for line in defaults_file().splitlines() if "an example" not in line]
    text = "\n".join(re.sub(r"^# (?=\w+ = )", "", line) for line in lines if not line.startswith("# [plugins"))
    text = re.sub(r"^(module_path|class_name) = .*$", "", text, flags=re.MULTILINE)
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    contents = tomllib.loads(text)
    assert ConnectorConfig.from_file(path) == ConnectorConfig()
    assert APIServerConfig.from_file(path) == APIServerConfig()
    assert {"retries", "errors", "extra_config"} <= set(contents)
    assert {"port", "request_timeout"} <= set(contents["api"])


def test_every_setting_stands_in_the_file_once_with_what_it_does(tmp_path: Path) -> None:
    text = defaults_file()
    top, api = text.split("\n[api]\n")
    for part, model in ((top, ConnectorConfig), (api, APIServerConfig)):
        for name in model.model_fields:
            assert len(re.findall(rf"^# [A-Z`].*\n(?:# .*\n)*# {name} = ", part, re.MULTILINE)) == 1, name
    examples = re.findall(r"^# (\w+ = .*   # an example).*$", top, re.MULTILINE)
    path = tmp_path / "settings.toml"
    path.write_text("\n".join(examples), encoding="utf-8")
    path.chmod(0o600)
    assert ConnectorConfig.from_file(path).announce_interval == 10.0
