"""The tier over vLLM's own interface where vLLM is installed, and over the restated one elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .host import Host
from .restated import Names, restated, spec

HAS_VLLM = importlib.util.find_spec("vllm") is not None
MODULE = "lmcache_connect.engines.vllm"


@pytest.fixture(scope="session")
def names() -> Names:
    if not HAS_VLLM:
        return Names()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what vLLM and torch say when they are imported
        base = importlib.import_module("vllm.v1.kv_offload.base")
        tiering = importlib.import_module("vllm.v1.kv_offload.tiering.base")
        importlib.import_module("vllm.v1.kv_offload.tiering.spec")
    return Names(base.LookupResult, base.ReqContext, base.ScheduleEndContext((), ()), tiering.TransferJob)


@pytest.fixture(scope="module")
def tier_class(names: Names) -> Iterator[Any]:
    if HAS_VLLM:
        yield importlib.import_module(MODULE).Tier
        return
    with restated():  # also while tests run: the tier takes vLLM's statistics when it is asked for them
        yield importlib.import_module(MODULE).Tier
    del sys.modules[f"{MODULE}.tier"]  # without vLLM, it cannot be imported


@pytest.fixture
def host(tier_class: Any, names: Names) -> Iterator[Callable[..., Host]]:
    """Makes hosts: `host(url, **options)`."""
    hosts: list[Host] = []

    def make(url: str, *, chunks: int = 32, nbytes: int = 8192, of: Any = None, **options: Any) -> Host:
        options.setdefault("identity", {"revision": "r1"})
        hosts.append(Host(tier_class, names, of or spec(), chunks=chunks, nbytes=nbytes, url=url, **options))
        return hosts[-1]

    yield make
    for each in hosts:
        each.close()
