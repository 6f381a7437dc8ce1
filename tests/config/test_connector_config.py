"""Settings: from code, from the environment, and never shown where they may be secret."""

from __future__ import annotations

from typing import Any, Final

import pytest
from pydantic import ValidationError

from lmcache_connect import ConnectorConfig
from lmcache_connect.errors import InvalidConfigError

CANARY: Final = "hunter2-canary"


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ConnectorConfig.model_fields:
        monkeypatch.delenv(f"LMCACHE_CONNECT_{name.upper()}", raising=False)


def test_every_setting_has_a_default() -> None:
    config = ConnectorConfig.load()
    assert config.url is None
    assert config.errors == "raise"
    assert config.operation_timeout == 10.0
    assert config.chunk_size == 256
    assert config.extra_config == {}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("errors", "miss", "miss"),
        ("operation_timeout", "2.5", 2.5),
        ("min_throughput", "1048576", 1 << 20),
        ("retries", "0", 0),
        ("breaker_failures", "3", 3),
        ("chunk_size", "16", 16),
        ("extra_config", '{"remote_storage_plugins": ["mine"]}', {"remote_storage_plugins": ["mine"]}),
    ],
)
def test_a_setting_is_read_from_the_environment_by_its_prefix(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"LMCACHE_CONNECT_{name.upper()}", text)
    monkeypatch.setenv(name.upper(), "somebody else's")
    assert getattr(ConnectorConfig.load(), name) == value


def test_code_beats_the_environment_which_beats_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_RETRIES", "7")
    monkeypatch.setenv("LMCACHE_CONNECT_CHUNK_SIZE", "16")
    config = ConnectorConfig.load(retries=1)
    assert (config.retries, config.chunk_size, config.breaker_failures) == (1, 16, 5)


def test_the_url_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", f"redis://:{CANARY}@host")
    config = ConnectorConfig.load(extra_config={"token": CANARY})
    assert config.url is not None
    assert config.url.get_secret_value() == f"redis://:{CANARY}@host"
    assert CANARY not in repr(config) + str(config)
    assert CANARY not in repr(config.model_dump(exclude={"extra_config"}))
    assert CANARY not in config.model_dump_json(exclude={"extra_config"})


@pytest.mark.parametrize("text", ["none", ""])
def test_the_url_can_be_unset_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_URL", text)
    assert ConnectorConfig.load().url is None


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InvalidConfigError, match="'retrys': no such setting; did you mean 'retries'\\?; expected one of url, errors"
    ) as caught:
        ConnectorConfig.load(retrys=CANARY)
    assert caught.value.setting == "retrys"
    assert CANARY not in str(caught.value)
    with pytest.raises(ValidationError):
        ConnectorConfig(retrys=1)  # type: ignore[call-arg]


BAD: Final = (
    ("errors", "ignore"),
    ("errors", CANARY),
    ("operation_timeout", CANARY),
    ("operation_timeout", 0),
    ("operation_timeout", -1),
    ("operation_timeout", 86_401),
    ("operation_timeout", float("inf")),
    ("operation_timeout", float("nan")),
    ("min_throughput", 0),
    ("min_throughput", 1 << 51),
    ("allocate_timeout", 0),
    ("retries", -1),
    ("retries", 101),
    ("retries", 1.5),
    ("retry_backoff", 0),
    ("breaker_failures", 0),
    ("breaker_reset", 0),
    ("max_bytes_in_flight", 0),
    ("close_grace", None),
    ("sync_timeout", [CANARY]),
    ("chunk_size", 0),
    ("max_local_cpu_bytes", -5),
    ("extra_config", [CANARY]),
    ("url", 5),
    ("url", [CANARY]),
)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_and_not_shown(name: str, value: object) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        ConnectorConfig.load(**{name: value})
    assert caught.value.setting.partition(".")[0] == name
    assert f"{name}" in str(caught.value)
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("name", "text"), [("operation_timeout", CANARY), ("retries", "101"), ("errors", CANARY)])
def test_a_bad_value_of_the_environment_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"LMCACHE_CONNECT_{name.upper()}", text)
    with pytest.raises(InvalidConfigError, match=name) as caught:
        ConnectorConfig.load()
    assert text not in str(caught.value)


@pytest.mark.parametrize("text", [CANARY, f'{{"token": "{CANARY}"', f'["{CANARY}"]'])
def test_an_extra_config_that_is_no_json_object_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_EXTRA_CONFIG", text)
    with pytest.raises(InvalidConfigError, match="extra_config") as caught:
        ConnectorConfig.load()
    assert CANARY not in str(caught.value) + repr(caught.value)


def test_a_configuration_is_frozen() -> None:
    config: Any = ConnectorConfig.load()
    with pytest.raises(ValidationError, match="frozen"):
        config.retries = 5
    assert config.retries == 2


def test_two_configurations_share_nothing() -> None:
    one, other = ConnectorConfig.load(), ConnectorConfig.load()
    one.extra_config["x"] = 1
    assert other.extra_config == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1048576", 1 << 20),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("0.001kB", 1),
        ("2GB", 2 * 10**9),
        ("1TiB", 1 << 40),
        ("7B", 7),
    ],
)
def test_a_size_in_bytes_may_have_a_unit(monkeypatch: pytest.MonkeyPatch, text: str, value: int) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_MAX_LOCAL_CPU_BYTES", text)
    assert ConnectorConfig.load().max_local_cpu_bytes == value
    assert ConnectorConfig.load(max_bytes_in_flight=text).max_bytes_in_flight == value


@pytest.mark.parametrize("text", ["2GiBs", "1,5GiB", "GiB", "-1MiB", "1 2", "1e6", "2 GiB extra", "0x10", "inf", "²MB"])
def test_a_text_that_is_not_a_size_is_refused_and_the_message_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="expected a number of bytes, such as 1048576, 512MiB"):
        ConnectorConfig.load(max_local_cpu_bytes=text)


@pytest.mark.parametrize("text", ["0MiB", "2048TiB"])
def test_a_size_that_is_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="max_local_cpu_bytes"):
        ConnectorConfig.load(max_local_cpu_bytes=text)
