"""The class `HiCacheBackend`, made against SGLang where it is installed, and against its interfaces restated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from lmcache_connect.testing import ValkeyServer

from .restated import HiCacheStorageConfig, restated_sglang

NAMES = {
    "backend_name": "connect",
    "module_path": "lmcache_connect.engines.sglang",
    "class_name": "HiCacheBackend",
    "interface_v1": 1,
}

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def backend_class() -> Iterator[Any]:
    with restated_sglang() as backend_class:
        yield backend_class


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def start(backend_class: Any, server: ValkeyServer) -> Iterator[Start]:
    """Makes backends as HiCache does, and closes them. What is not given is one rank of a model with heads."""
    made: list[Any] = []

    def start(pool: Any = None, url: str | None = None, **given: Any) -> Any:
        config = config_of(url or server.url(), **given)
        backend = backend_class(config, {})
        made.append(backend)
        if pool is not None:
            backend.register_mem_pool_host(pool)
            backend.on_host_pools_registered()
        return backend

    yield start
    for backend in made:
        backend.close()


def config_of(
    url: str,
    *,
    model: str | None = "org/model",
    tp: tuple[int, int] = (0, 1),
    pp: tuple[int, int] = (0, 1),
    cp: tuple[int, int] = (0, 1),
    mla: bool = False,
    metrics: bool = False,
    kind: Any = HiCacheStorageConfig,
    **extra: Any,
) -> Any:
    """HiCache's configuration. `extra` are names in the extra config. A value of None leaves a name out."""
    named = {**NAMES, "url": url, "identity": {"revision": "r1"}, **extra}
    return kind(
        tp_rank=tp[0],
        tp_size=tp[1],
        pp_rank=pp[0],
        pp_size=pp[1],
        attn_cp_rank=cp[0],
        attn_cp_size=cp[1],
        is_mla_model=mla,
        enable_storage_metrics=metrics,
        is_page_first_layout=False,
        model_name=model,
        extra_config={name: value for name, value in named.items() if value is not None},
    )


def keys_of(count: int) -> list[str]:
    """As many keys, in HiCache's form, as no other test has."""
    return [uuid4().hex * 2 for _ in range(count)]
