"""Stores with something in them, for the commands that look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from lmcache_connect import ConnectorManager
from lmcache_connect.testing import ValkeyServer

MODEL: Final = "lc1@Llama-3.1-8B-Instruct"
DIGEST: Final = "d6066f7466ec939ed23582fc97998570"


def engine_key(tenant: str, raw: str, model: str = MODEL) -> str:
    """A key as this toolkit's engines write it."""
    return f"{model}@{tenant}@{DIGEST}@{raw}"


def fill(url: str, chunks: Mapping[str, bytes], ttls: Mapping[str, float] | None = None) -> None:
    """Puts chunks of bytes into a store."""

    async def put() -> None:
        async with ConnectorManager(url, config={"max_local_cpu_bytes": 32 << 20}) as manager:
            connector = manager.create_connector()
            stored = await connector.batched_put_from([*chunks], [*chunks.values()])
            assert all(stored)
            if ttls:
                assert all(await connector.expire([*ttls], [*ttls.values()]))

    asyncio.run(put())


@pytest.fixture
def chunks() -> dict[str, bytes]:
    """Chunks of two models and two tenants; one is large enough to be stored in pieces."""
    return {
        engine_key("acme", "aa"): b"a" * 1000,
        engine_key("acme", "bb"): b"b" * (5 << 20),
        engine_key("other", "aa"): b"c" * 3000,
        "Qwen/Qwen3@1@0@abc@bfloat16": b"d" * 700,
        "a key of somebody's": b"e" * 10,
    }


@pytest.fixture
def url(server: ValkeyServer, chunks: dict[str, bytes]) -> str:
    """A store that holds them. One of them expires."""
    fill(server.url(), chunks, {engine_key("other", "aa"): 7200})
    return server.url()


@pytest.fixture
def filled(url: str) -> Callable[[Mapping[str, bytes]], None]:
    """Puts more chunks into the store."""
    return lambda more: fill(url, more)


def raw(client: Any, name: str, field: str = "") -> bytearray:
    """What a server holds under a name, or in a field of it."""
    value = client.hget(name, field) if field else client.get(name)
    assert isinstance(value, bytes)
    return bytearray(value)
