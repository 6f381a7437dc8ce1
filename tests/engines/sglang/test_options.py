"""What the extra config says: a wrong value refuses SGLang's start, in words that name it."""

from __future__ import annotations

from typing import Any

import pytest

from lmcache_connect.errors import InvalidArgumentError, InvalidConfigError, InvalidURLError, UnknownSchemeError

from ..secret_urls import WITH_A_SECRET, WITHOUT, check_warning, warnings_of
from .conftest import Start

WRONG: list[Any] = [
    pytest.param({"url": 7}, InvalidConfigError, "it is missing from --hicache", id="url of another type"),
    pytest.param({"url": "nonsense"}, InvalidURLError, "nonsense", id="url without a scheme"),
    pytest.param({"url": "rediss3://h"}, UnknownSchemeError, "rediss3", id="unknown scheme"),
    pytest.param({"deadline": "soon"}, InvalidArgumentError, "deadline", id="deadline"),
    pytest.param({"deadline": 0}, InvalidArgumentError, "deadline", id="deadline of zero"),
    pytest.param({"max_waiting_store_bytes": "much"}, InvalidArgumentError, "max_waiting_store_bytes", id="bytes"),
    pytest.param({"deadlin": 3}, InvalidConfigError, "did you mean 'deadline'", id="unknown name"),
    pytest.param({"skip_exist": 1}, InvalidConfigError, "mean 'skip_existing'", id="unknown name of its own"),
    pytest.param({"operation_timeout": -1}, InvalidConfigError, "operation_timeout", id="setting"),
    pytest.param({"strict_identity": "yes"}, InvalidConfigError, "strict_identity", id="no boolean"),
    pytest.param({"skip_existing": 1}, InvalidConfigError, "skip_existing", id="number"),
    pytest.param({"identity": "org/model"}, InvalidConfigError, "identity", id="no fields"),
    pytest.param({"identity": {"revison": "r1"}}, InvalidConfigError, "revison", id="unknown field"),
]


@pytest.mark.parametrize(("given", "error", "words"), WRONG)
def test_a_wrong_value_refuses_the_start_and_is_named(
    start: Start, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        start(**given)


def test_a_missing_url_refuses_the_start(backend_class: Any) -> None:
    from .conftest import config_of

    config = config_of("redis://unused")
    for extra in (None, {}, {"url": ""}):
        config.extra_config = extra
        with pytest.raises(InvalidConfigError, match="it is missing"):
            backend_class(config, {})


def test_a_url_with_a_secret_may_come_from_the_environment(
    backend_class: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from .conftest import config_of

    monkeypatch.setenv("LMCACHE_CONNECT_URL", WITH_A_SECRET["password"])
    config = config_of("redis://unused")
    config.extra_config = {}
    backend = backend_class(config, {})
    try:
        assert backend.status()["port"]["store"] == "redis://127.0.0.1:1/0"
        assert not warnings_of(caplog)
    finally:
        backend.close()


def test_what_sglang_reads_itself_is_not_an_unknown_name(start: Start) -> None:
    start(prefetch_threshold=256, prefetch_timeout_base=1, tp_lcm_size=8, hicache_storage_pass_prefix_keys=True)


def test_a_setting_of_the_toolkit_reaches_its_connector(start: Start) -> None:
    with pytest.raises(InvalidConfigError, match="breaker_failures"):
        start(breaker_failures=0)
    start(breaker_failures=9, max_waiting_store_bytes="64MiB")


@pytest.mark.parametrize("url", WITH_A_SECRET.values(), ids=WITH_A_SECRET)
def test_a_secret_in_the_url_is_taken_and_warned_of_once(
    start: Start, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    start(url=url)
    check_warning(caplog, "url")


def test_a_url_that_says_where_the_password_is_is_not_warned_of(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "of the environment")
    start(url=WITHOUT)
    assert not warnings_of(caplog)
