"""The page about vLLM lists every option with its default and every metric, and its command lines are read as meant."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect.engines.vllm.figures import COUNTERS, GAUGES
from lmcache_connect.engines.vllm.tier_options import TierOptions

from .restated import Names, spec

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "engines-vllm.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def transfer_configs() -> list[dict[str, Any]]:
    return [json.loads(text) for text in re.findall(r"--kv-transfer-config '(.*?)'\n?```", PAGE, flags=re.DOTALL)]


def test_the_page_lists_every_option_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", section("Options"), flags=re.MULTILINE))
    expected: dict[str, str] = {}
    for option in fields(TierOptions):
        if option.name == "settings":
            continue
        made = option.default_factory
        expected[option.name] = str(option.default if made is MISSING else made())
    assert rows == expected


def test_the_page_lists_every_metric_with_its_labels() -> None:
    rows = re.findall(r"^\| `(lmcache_connect_\w+)` \| (.*?) \|", section("How to see it"), flags=re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == {
        name: labels for name, (_, labels) in {**COUNTERS, **GAUGES}.items()
    }


def test_the_tier_takes_the_configuration_of_the_page(tier_class: Any, valkey_url: str) -> None:
    ours, mp = transfer_configs()
    assert mp["kv_connector"] == "LMCacheMPConnector"
    (config,) = ours["kv_connector_extra_config"]["secondary_tiers"]
    assert (config.pop("module_path"), config.pop("type")) == ("lmcache_connect.engines.vllm", tier_class.__name__)
    view = memoryview(bytearray(64)).cast("B", (8, 8))
    tier = tier_class(offloading_spec=spec(), primary_kv_view=view, tier_type="Tier", url=valkey_url, **config)
    tier.shutdown()


def test_lmcaches_client_takes_the_configuration_of_the_page(valkey_url: str) -> None:
    (text,) = re.findall(r"--l2-adapter '(.*?)'\n?```", PAGE, flags=re.DOTALL)
    adapter = json.loads(text)
    assert (adapter["type"], adapter["module_path"]) == ("native_plugin", "lmcache_connect.engines.lmcache")
    parameters = {**adapter["adapter_params"], "url": valkey_url}
    client = getattr(importlib.import_module(adapter["module_path"]), adapter["class_name"])(**parameters)
    client.close()


def test_vllm_itself_takes_both_configurations_of_the_page(names: Names) -> None:
    config = pytest.importorskip("vllm.config", reason="vLLM is not installed")
    for given in transfer_configs():
        taken = config.KVTransferConfig(**given)
        assert taken.kv_connector_extra_config == given["kv_connector_extra_config"]
