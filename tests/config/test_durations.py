"""Durations with a unit: in code, the environment, the settings file and URLs, and with the ranges of plain seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lmcache_connect import ConnectorConfig, InvalidURLError, RemoteURL
from lmcache_connect.config import DURATION, byte_count, second_count
from lmcache_connect.config.durations import duration_text
from lmcache_connect.config.sizes import size_text
from lmcache_connect.engines.port_settings import checked_deadline
from lmcache_connect.engines.vllm.tier_options import TierOptions
from lmcache_connect.errors import InvalidArgumentError, InvalidConfigError
from lmcache_connect.internal_api_server import APIServerConfig
from lmcache_connect_composition.hot_adapter import HotOptions
from lmcache_connect_redis.cluster.options import RedisClusterOptions
from lmcache_connect_redis.options import RedisOptions
from lmcache_connect_redis.ring.options import RedisRingOptions
from lmcache_connect_redis.sentinel.options import SentinelOptions
from lmcache_connect_s3.options import S3Options
from lmcache_connect_trials.fault_adapter import FaultOptions

MODELS = (
    ConnectorConfig,
    APIServerConfig,
    RedisOptions,
    RedisRingOptions,
    RedisClusterOptions,
    SentinelOptions,
    S3Options,
    HotOptions,
    FaultOptions,
)

GOOD = (
    ("10s", 10.0),
    ("250ms", 0.25),
    ("5m", 300.0),
    ("5min", 300.0),
    ("2h", 7200.0),
    ("1d", 86_400.0),
    ("500us", 0.0005),
    ("1.5 S", 1.5),
    ("0.3ms", 0.0003),
    ("2.5", 2.5),
    ("1e1", 10.0),
)


@pytest.mark.parametrize(("text", "seconds"), GOOD)
def test_seconds_may_have_a_unit_everywhere(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    assert ConnectorConfig.load(operation_timeout=text).operation_timeout == seconds
    monkeypatch.setenv("LMCACHE_CONNECT_STALL_TIMEOUT", text)
    assert ConnectorConfig.load().stall_timeout == seconds
    url = RemoteURL.parse(f"redis://h?ttl={text.replace(' ', '%20')}&timeout={text.replace(' ', '%20')}")
    assert (url.options(RedisOptions).ttl, url.options(RedisOptions).timeout) == (seconds, seconds)
    assert TierOptions.load({"deadline": text}).deadline == seconds
    assert checked_deadline(text) == seconds


def test_a_timedelta_is_its_seconds() -> None:
    assert ConnectorConfig.load(operation_timeout=timedelta(minutes=2)).operation_timeout == 120.0


@pytest.mark.parametrize("text", ["10x", "s", "1h30", "-5s", "1,5s", "ten", "", "10 s s", "1_000s", "²s"])
def test_what_is_not_a_duration_is_refused_and_the_message_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="expected a number of seconds, or a duration such as 250ms, 10s"):
        ConnectorConfig.load(operation_timeout=text)
    with pytest.raises(InvalidArgumentError, match="250ms"):
        checked_deadline(text)
    if text:
        with pytest.raises(InvalidURLError, match="; expected a number of seconds, or a duration such as 250ms"):
            RemoteURL.parse(f"redis://h?ttl={text.replace(' ', '%20')}").options(RedisOptions)


@pytest.mark.parametrize("text", ["0s", "0ms", "25h", "2d", "inf", "nan", "1e9"])
def test_a_duration_that_is_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="operation_timeout"):
        ConnectorConfig.load(operation_timeout=text)
    with pytest.raises(InvalidURLError, match="stall_timeout"):
        RemoteURL.parse(f"redis://h?stall_timeout={text}").options(RedisOptions)


def test_a_store_may_keep_chunks_for_days() -> None:
    assert RemoteURL.parse("redis://h?ttl=30d").options(RedisOptions).ttl == 30 * 86_400
    with pytest.raises(InvalidURLError, match="ttl"):
        RemoteURL.parse("redis://h?ttl=4000d").options(RedisOptions)


@pytest.mark.parametrize("model", MODELS)
def test_every_option_and_setting_that_is_seconds_takes_a_unit(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
        is_float = any(kind is float or (get_args(kind) or (None,))[0] is float for kind in kinds)
        marks = [*field.metadata, *(mark for kind in kinds for mark in getattr(kind, "__metadata__", ()))]
        is_rate = name.endswith("_rate")
        assert not is_float or is_rate or DURATION in marks, f"{model.__name__}.{name}"


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_a_duration_that_was_written_is_read_as_the_same_seconds(seconds: float) -> None:
    seconds = float(f"{seconds:.6f}")
    assert second_count(duration_text(seconds)) == seconds


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_size_that_was_written_is_read_as_the_same_bytes(nbytes: int) -> None:
    assert byte_count(size_text(nbytes)) == nbytes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250ms"), (10.0, "10s"), (300.0, "5m"), (7200.0, "2h"), (86_400.0, "1d"), (90.0, "90s"), (0.0, "0s")],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
