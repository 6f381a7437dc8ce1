"""The connector of several servers keeps every rule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig
from lmcache_connect.record import FIXED_HEADER_BYTES, spread_plan
from lmcache_connect.testing import FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect_redis.ring import connector as ring_connector
from lmcache_connect_redis.ring.spread_chunk import placed_pieces
from lmcache_connect_redis.topology.ring import Ring

from .raw_redis import RedisConformance


class TestARingOfThree(RedisConformance):
    """Each server stands behind a proxy of its own, so that all of them can fail at once."""

    capabilities = replace(RedisConformance.capabilities, ttl=True)
    options = ""

    @pytest.fixture(autouse=True)
    def _on_ring(self, _on_valkey: None, ring_servers: list[StoreServer]) -> Iterator[None]:
        for server in ring_servers:
            server.flush()
        self.servers = ring_servers
        self.proxies = [FaultProxy(server.host, server.port) for server in ring_servers]
        self.store_address = ""
        for proxy in self.proxies:
            proxy.start()
        try:
            yield
        finally:
            for proxy in self.proxies:
                proxy.stop()

    @pytest.fixture
    def store_url(self) -> str:
        return "redis-ring://" + ",".join(f"{proxy.host}:{proxy.port}" for proxy in self.proxies) + self.options

    def config(self) -> ConnectorConfig:
        # Each server has a breaker of its own. The rules take an answer of one key for one of the store.
        return super().config().model_copy(update={"breaker_failures": 1000})

    async def break_store(self) -> None:
        for proxy in self.proxies:
            await asyncio.to_thread(proxy.stop)

    async def mend_store(self) -> None:
        for proxy in self.proxies:
            await asyncio.to_thread(proxy.start)

    def _read(self, name: str) -> bytes | None:
        self._go_to_server_of(name)
        return super()._read(name)

    def _write(self, name: str, data: bytes) -> None:
        self._go_to_server_of(name)
        super()._write(name, data)

    def _go_to_server_of(self, name: str) -> None:
        self.server = self.servers[self._proxied.index(self._address_of(name))]

    def _address_of(self, name: str) -> tuple[str, int]:
        return Ring(self._proxied).address_of(name)

    @property
    def _proxied(self) -> list[tuple[str, int]]:
        return [(proxy.host, proxy.port) for proxy in self.proxies]


@pytest.mark.variant
class TestARingInThreads(TestARingOfThree):
    options = "?io=thread&stripe=65536"


@pytest.mark.variant
class TestASpreadingRing(TestARingOfThree):
    """Chunks of 8 MiB and more, of which the rules have some, lie on two servers each."""

    options = "?spread=2"


@pytest.mark.variant
class TestASpreadingRingInThreads(TestARingOfThree):
    options = "?spread=3&io=thread&stripe=65536"


@pytest.mark.variant
class TestARingThatSpreadsSmallChunks(TestARingOfThree):
    """Most of the rules have small chunks. Here those are spread as well, and raw records are all of their pieces."""

    options = "?spread=2"

    @pytest.fixture(autouse=True)
    def _spreads_small_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._of_piece: dict[str, tuple[str, int]] = {}
        monkeypatch.setattr(ring_connector, "SPREAD_FROM", 8193)

    def _read(self, name: str) -> bytes | None:
        records = [super(TestARingThatSpreadsSmallChunks, self)._read(piece) for piece in self._records(name)]
        return b"".join(map(bytes, records)) if len(records) > 1 else records[0]  # type: ignore[arg-type]

    def _write(self, name: str, data: bytes) -> None:
        names = self._records(name)
        lengths = [len(super(TestARingThatSpreadsSmallChunks, self)._read(each) or b"") for each in names]
        if len(names) == 1 or sum(lengths) != len(data):
            super()._write(name, data)
            return
        for each, (start, end) in zip(names, pairwise(accumulate(lengths, initial=0)), strict=True):
            super()._write(each, data[start:end])

    def _records(self, name: str) -> list[str]:
        plan = spread_plan((super()._read(name) or b"")[:FIXED_HEADER_BYTES], name)
        if plan is None:
            return [name]
        placed = placed_pieces(Ring(self._proxied), name, plan)
        self._of_piece = {piece: address for address, piece in placed}
        return [piece for _, piece in placed]

    def _address_of(self, name: str) -> tuple[str, int]:
        return self._of_piece.get(name) or super()._address_of(name)


@pytest.mark.variant
class TestARingOfOne(RedisConformance):
    capabilities = replace(RedisConformance.capabilities, ttl=True)

    @pytest.fixture
    def store_url(self) -> str:
        return f"redis-ring://{self.store_address}"


@pytest.fixture(scope="module")
def ring_servers(valkey_server: ValkeyServer) -> Iterator[list[Any]]:
    with ValkeyServer() as second, ValkeyServer() as third:
        yield [valkey_server, second, third]
