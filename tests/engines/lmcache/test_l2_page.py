"""`docs/engines-lmcache.md` and `docs/engines.md`: their configuration texts make what they say."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect.engines.identity import Identity
from lmcache_connect.engines.jobs import DEADLINE, MAX_WAITING_STORE_BYTES, JobPort
from lmcache_connect.engines.lmcache import NativeClient
from lmcache_connect.engines.port_settings import port_settings

DOCS = Path(__file__).parents[3] / "docs"
ADAPTERS = [
    json.loads(found)
    for found in re.findall(r"--l2-adapter '(\{\n.*?\n    \})'", (DOCS / "engines-lmcache.md").read_text(), re.DOTALL)
]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_configuration_of_the_page_makes_a_client(adapter: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "any")
    assert (adapter["module_path"], adapter["class_name"]) == ("lmcache_connect.engines.lmcache", NativeClient.__name__)
    NativeClient(**adapter["adapter_params"]).close()


def test_the_page_shows_more_than_one() -> None:
    assert len(ADAPTERS) == 2


def test_the_page_of_all_engines_names_every_field_of_an_identity_that_may_be_given() -> None:
    text = (DOCS / "engines.md").read_text().partition("## Identity")[2].partition("## Options")[0]
    for name in Identity.field_names():
        if name not in ("model", "engine", "record_kind", "salt"):
            assert f"`{name}`" in text, name


def test_the_page_of_all_engines_has_the_options_of_a_port_with_their_defaults() -> None:
    text = (DOCS / "engines.md").read_text().partition("## Options")[2].partition("## What happens when")[0]
    for name in inspect.signature(JobPort).parameters:
        if name != "settings":
            assert f"| `{name}` |" in text, name
    assert f"| `deadline` | {DEADLINE:g} |" in text
    assert f"| `max_waiting_store_bytes` | {MAX_WAITING_STORE_BYTES >> 20} MiB |" in text
    settings = port_settings(DEADLINE, {})
    assert f"`retries` is {settings.retries}, `breaker_failures` {settings.breaker_failures}" in text
