"""What the page of the settings says is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmcache_connect import ConnectorConfig
from lmcache_connect.config import Origin, second_count
from lmcache_connect.internal_api_server import APIServerConfig

PAGE = (Path(__file__).parents[2] / "docs/settings.md").read_text(encoding="utf-8")


def test_the_file_on_the_page_is_read_as_the_page_says(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    token = tmp_path / "token"
    token.write_text("quite-a-long-token", encoding="ascii")
    file = tmp_path / "settings.toml"
    file.write_text(text.replace("/run/secrets/lmcache-connect-token", str(token)), encoding="utf-8")
    config = ConnectorConfig.from_file(file)
    assert config.url is not None
    assert config.url.get_secret_value() == "redis://cache:6379?ttl=1h"
    assert (config.operation_timeout, config.max_local_cpu_bytes) == (5.0, 4 << 30)
    assert config.remote_storage_plugins == ("mystore",)
    assert config.extra_config["remote_storage_plugin.mystore.path"] == "/nvme"
    assert APIServerConfig.from_file(file).port == 8090
    assert ConnectorConfig.origins(file=file)["operation_timeout"] == Origin("file", f"{file}:3")


@pytest.mark.parametrize(
    ("written", "seconds"), re.findall(r"^\| ((?:`[^`]+`(?:,| or)? ?)+) \| ([0-9., ]+) \|$", PAGE, flags=re.MULTILINE)
)
def test_the_durations_on_the_page_are_those_seconds(written: str, seconds: str) -> None:
    numbers = [float(number) for number in seconds.split(", ")]
    texts = [re.findall(r"`([^`]+)`", group) for group in written.split(", ")]
    assert len(texts) == len(numbers)
    for group, number in zip(texts, numbers, strict=True):
        assert [float(str(second_count(text))) for text in group] == [number] * len(group)
