"""The settings file: what it says, who wins over it, and what is refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager
from lmcache_connect.config import FILE_VARIABLE
from lmcache_connect.config.origin import Origin
from lmcache_connect.errors import InvalidConfigError
from lmcache_connect.internal_api_server import APIServerConfig
from lmcache_connect.known_secrets import clean

CANARY: Final = "hunter2-canary-9"

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LMCACHE_CONNECT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    return write


def test_nothing_is_read_from_a_file_that_is_not_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write("retries = 7").parent)
    assert ConnectorConfig.load().retries == 2


def test_a_file_may_be_named_in_code_and_by_the_variable(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('operation_timeout = "2m"\nmax_local_cpu_bytes = "64MiB"')
    named = ConnectorConfig.from_file(path)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    loaded = ConnectorConfig.load()
    assert named.operation_timeout == loaded.operation_timeout == 120.0
    assert named.max_local_cpu_bytes == 64 << 20
    assert ConnectorConfig().operation_timeout == 120.0
    with ConnectorManager("memory://file") as manager:
        assert manager.settings.operation_timeout == 120.0


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE_VARIABLE, "")
    assert ConnectorConfig.load().retries == 2


def test_the_url_wins_over_code_code_over_the_environment_that_over_the_file_and_that_over_the_default(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("operation_timeout = 11\nstall_timeout = 12\nretries = 13\nbreaker_failures = 14\n")
    monkeypatch.setenv("LMCACHE_CONNECT_OPERATION_TIMEOUT", "21")
    monkeypatch.setenv("LMCACHE_CONNECT_STALL_TIMEOUT", "22")
    monkeypatch.setenv("LMCACHE_CONNECT_RETRIES", "23")
    config = ConnectorConfig.from_file(path, operation_timeout=31, stall_timeout=32)
    with ConnectorManager("redis://127.0.0.1:1?timeout=41", config=config) as manager:
        connector: Any = manager.create_connector()
        used = connector._settings
    assert used.operation_timeout == 41
    assert used.stall_timeout == 32
    assert used.retries == 23
    assert used.breaker_failures == 14
    assert used.breaker_reset == 1.0


def test_the_origins_say_who_won(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("# a comment\n\nretries = 13\nstall_timeout = 12\n[api]\nport = 1\n")
    monkeypatch.setenv("LMCACHE_CONNECT_STALL_TIMEOUT", "22")
    found = ConnectorConfig.origins(file=path, given=["errors"])
    assert found["errors"] == Origin("code")
    assert found["stall_timeout"] == Origin("environment", "LMCACHE_CONNECT_STALL_TIMEOUT")
    assert found["retries"] == Origin("file", f"{path}:3")
    assert found["chunk_size"] == Origin("default")
    assert APIServerConfig.origins(file=path)["port"] == Origin("file", f"{path}:6")


def test_the_table_api_has_the_settings_of_the_server(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('retries = 5\n[api]\nport = 8090\nhead_timeout = "250ms"\nmax_body_bytes = "64KiB"\n')
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    monkeypatch.setenv("LMCACHE_CONNECT_API_HEAD_TIMEOUT", "3s")
    config = APIServerConfig.load()
    assert (config.port, config.head_timeout, config.max_body_bytes) == (8090, 3.0, 64 << 10)
    assert ConnectorConfig.load().retries == 5


def test_plug_ins_are_tables(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        FILE_VARIABLE,
        str(
            write(
                "[plugins.mini]\n"
                'module_path = "tests.foreign.strangers.minimal"\n'
                'class_name = "MinimalConnector"\n'
                "[plugins.'mini.second']\n"
                "capacity = 7\n"
            )
        ),
    )
    config = ConnectorConfig.load()
    assert config.remote_storage_plugins == ("mini", "mini.second")
    assert config.extra_config["remote_storage_plugin.mini.second.capacity"] == 7
    with ConnectorManager(config=config) as manager:
        assert manager.create_connector("plugin://mini").store == "plugin://mini"


def test_the_file_may_say_which_plug_ins_are_used_and_what_adapters_are_told(write: Write) -> None:
    path = write(
        'remote_storage_plugins = ["one"]\n[plugins.one]\na = 1\n[plugins.two]\nb = 2\n'
        '[extra_config]\naudit_verify_checksum = true\n"remote_storage_plugin.one.a" = 3\n'
    )
    config = ConnectorConfig.from_file(path)
    assert config.remote_storage_plugins == ("one",)
    assert config.extra_config["audit_verify_checksum"] is True
    assert config.extra_config["remote_storage_plugin.one.a"] == 3


@pytest.mark.parametrize(
    ("text", "setting", "said"),
    [
        ("retrys = 3", "retrys", "settings.toml:1; did you mean 'retries'?; expected one of url, errors"),
        ("[ap]\nport = 1", "ap", "settings.toml:1; did you mean 'api'?"),
        ("retries = 101", "retries", "settings.toml:1"),
        ("\nretries = 'often'", "retries", "settings.toml:2"),
        ("url = 5", "url", "settings.toml:1"),
        ("plugins = 5", "plugins", "expected a table, [plugins]"),
        ("[plugins]\nmini = 5", "plugins.mini", "expected a table of the plug-in's settings, [plugins.mini]"),
        (f"url = '{CANARY}", "LMCACHE_CONNECT_CONFIG", "is not TOML: "),
        (f"retries = 1\nretries = 2 # {CANARY}", "LMCACHE_CONNECT_CONFIG", "is not TOML"),
        ("x" * (1 << 21), "LMCACHE_CONNECT_CONFIG", "has more than 1048576 bytes"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place_and_not_shown(
    write: Write, text: str, setting: str, said: str
) -> None:
    path = write(text)
    with pytest.raises(InvalidConfigError) as caught:
        ConnectorConfig.from_file(path)
    assert caught.value.setting == setting
    assert said in str(caught.value)
    assert CANARY not in str(caught.value)


def test_an_unknown_name_of_the_server_is_named_with_its_table(write: Write) -> None:
    with pytest.raises(InvalidConfigError, match=r"'api\.prot': no such name in the table \[api\].*mean 'port'"):
        APIServerConfig.from_file(write("[api]\nprot = 1"))


def test_a_file_that_is_not_there_or_is_not_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "missing.toml"))
    with pytest.raises(InvalidConfigError, match=r"missing\.toml cannot be read: No such file"):
        ConnectorConfig.load()
    with pytest.raises(InvalidConfigError, match="cannot be read: Is a directory"):
        ConnectorConfig.from_file(tmp_path)
    (tmp_path / "binary").write_bytes(b'url = "\xff\xfe"')
    with pytest.raises(InvalidConfigError, match="byte 7 is not UTF-8"):
        ConnectorConfig.from_file(tmp_path / "binary")


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        (f"url = 'redis://:{CANARY}@h'", True),
        (f"[api]\ntoken = '{CANARY}-long-enough'", True),
        (f"[plugins.mini]\npassword = '{CANARY}'", True),
        ("url = 'redis://h'\n[api]\ntoken_file = '/run/secrets/token'", False),
    ],
)
def test_a_file_with_a_secret_that_others_may_read_is_warned_of(
    write: Write, caplog: pytest.LogCaptureFixture, text: str, holds: bool
) -> None:
    path = write(text)
    with caplog.at_level(logging.WARNING, "lmcache_connect"):
        ConnectorConfig.from_file(path)
        assert not caplog.records
        path.chmod(0o644)
        ConnectorConfig.from_file(path)
        ConnectorConfig.from_file(path)
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == [
        "secret_file_open_to_others"
    ] * holds


def test_the_secrets_of_a_file_are_hidden_everywhere(write: Write) -> None:
    url = ConnectorConfig.from_file(write(f"url = 'redis://:{CANARY}@h'"))
    assert CANARY not in repr(url) + str(url.shown()) + clean(f"the server said {CANARY}")
    del url
    plugin = ConnectorConfig.from_file(write(f"[plugins.mini]\nsecret = '{CANARY}'"))
    assert CANARY not in repr(plugin) + str(plugin.shown()) + clean(f"the server said {CANARY}")
    del plugin
    server = APIServerConfig.from_file(write(f"[api]\ntoken = '{CANARY}-long-enough'"))
    assert CANARY not in repr(server) + clean(f"the server said {CANARY}-long-enough")


def test_a_pipe_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "settings.toml"
    os.mkfifo(pipe)
    with pytest.raises(InvalidConfigError, match="expected a regular file"):
        ConnectorConfig.from_file(pipe)


@pytest.mark.parametrize("text", ["retries = " + "[" * 50_000, "retries = " + "{a=" * 3000, "retries = " + "9" * 5000])
def test_what_tomllib_gives_up_on_is_an_error_of_the_file(write: Write, text: str) -> None:
    with pytest.raises(InvalidConfigError, match=r"cannot be read: .* too (deeply|many digits)"):
        ConnectorConfig.from_file(write(text))


def test_a_url_in_the_place_of_a_name_is_shown_without_its_password(write: Write) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        ConnectorConfig.from_file(write(f'"redis://:{CANARY}@127.0.0.1" = 1'))
    assert CANARY not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
