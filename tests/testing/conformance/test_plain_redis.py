"""The reference Redis connector, on redis-py alone, keeps every rule."""

from __future__ import annotations

import pytest

from lmcache_reference_connectors.redis import RedisReferenceAdapter

from .raw_redis import RedisConformance


class TestPlainRedis(RedisConformance):
    adapters = (RedisReferenceAdapter,)

    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url().replace("redis://", "plain-redis://", 1)
