"""The classes that engines load say what to do where they are asked for outside of their engine."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from lmcache_connect.errors import MissingEngineError

CLASSES = [
    ("lmcache", "L2Adapter", "lmcache", "LMCache's server"),
    ("vllm", "Tier", "vllm", "vLLM"),
    ("sglang", "HiCacheBackend", "sglang", "SGLang"),
]


@pytest.mark.parametrize(("package", "name", "module", "engine"), CLASSES)
def test_a_class_for_an_engine_that_is_not_installed_names_the_engine_and_its_environment(
    package: str, name: str, module: str, engine: str
) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    loaded = importlib.import_module(f"lmcache_connect.engines.{package}")
    with pytest.raises(MissingEngineError, match=f"{name} runs inside {engine}.*into the environment of {engine}"):
        getattr(loaded, name)
