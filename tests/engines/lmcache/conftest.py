"""Hosts of the two classes that LMCache's multi-process server loads, over the interfaces restated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmcache_connect.engines.lmcache import NativeClient

from .restated import AdapterHost, Host, NativeHost, put_modules

OURS = "lmcache_connect.engines.lmcache.l2_adapter"
Open = Callable[..., Any]


@pytest.fixture
def restated(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Any]]:
    """`L2Adapter` on the restated interface. LMCache need not be installed, and is not touched where it is."""
    before = sys.modules.pop(OURS, None)
    with monkeypatch.context() as patch:
        put_modules(patch.setitem)
        from lmcache_connect.engines.lmcache import L2Adapter

        sys.modules.pop(OURS)
    if before is not None:
        sys.modules[OURS] = before
    with monkeypatch.context() as patch:  # `get_memory_tags` imports when it is called
        put_modules(patch.setitem)
        yield L2Adapter


@pytest.fixture
def open_native() -> Iterator[Callable[..., NativeHost]]:
    """Opens a `NativeClient` with these parameters. It is closed when the test ends."""
    opened: list[NativeHost] = []

    def opener(url: str, **params: Any) -> NativeHost:
        opened.append(NativeHost(NativeClient(url=url, **params)))
        return opened[-1]

    yield opener
    for host in opened:
        host.close()


@pytest.fixture
def open_adapter(restated: type[Any]) -> Iterator[Callable[..., AdapterHost]]:
    """Opens an `L2Adapter` with these parameters. It is closed when the test ends."""
    opened: list[AdapterHost] = []

    def opener(url: str, **params: Any) -> AdapterHost:
        opened.append(AdapterHost(restated({"url": url, **params}, l1_memory_desc=None)))
        return opened[-1]

    yield opener
    for host in opened:
        host.close()


@pytest.fixture(params=["native_plugin", "plugin"])
def open_host(request: pytest.FixtureRequest) -> Callable[..., Host]:
    """Opens either class."""
    opener: Callable[..., Host] = request.getfixturevalue(
        "open_native" if request.param == "native_plugin" else "open_adapter"
    )
    return opener
