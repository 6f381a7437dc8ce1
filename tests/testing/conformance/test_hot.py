"""A hot cache in front of a store keeps every rule that the store keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmcache_connect.testing.conformance import Capabilities, ConnectorConformance
from lmcache_connect.testing.subject import Subject, rule

# Not `raw`: what is damaged behind the cache's back is not seen before `hot_ttl`.
CAPABILITIES = Capabilities(remove=True, list=True, scan=True, ping=True, shared=True, stale_for=0.5)


class _WithRoomBesideTheArena(ConnectorConformance):
    """Its gets need no room in the arena, so it cannot be full for them."""

    @rule
    async def test_a_get_without_room_in_the_arena_waits_without_blocking_the_loop(self, subject: Subject) -> None:
        """As with a small cache, which these chunks pass by."""
        pytest.skip("the cache has room of its own; tested with a small one")

    @rule
    async def test_a_batch_that_does_not_fit_the_arena_raises_and_holds_nothing(self, subject: Subject) -> None:
        """As with a small cache, which these chunks pass by."""
        pytest.skip("the cache has room of its own; tested with a small one")


class TestInFrontOfMemory(_WithRoomBesideTheArena):
    url = "hot+memory://hot?hot_bytes=64MiB&hot_ttl=0.3"
    capabilities = CAPABILITIES


@pytest.mark.variant
class TestInFrontOfRedis(_WithRoomBesideTheArena):
    capabilities = replace(CAPABILITIES, ttl=True)

    @pytest.fixture
    def store_url(self, valkey_url: str) -> str:
        self.store_address = valkey_url.removeprefix("redis://")
        return f"hot+{valkey_url}?hot_bytes=64MiB&hot_ttl=0.3"


@pytest.mark.variant
class TestSmallAndInFrontOfMemory(ConnectorConformance):
    """Most chunks pass by, and each that does not pushes others out."""

    url = "hot+memory://small-hot?hot_bytes=32KiB&hot_ttl=0.3"
    capabilities = CAPABILITIES


class TestSmallAndInFrontOfRedis(ConnectorConformance):
    """Most chunks pass by, and each that does not pushes others out."""

    capabilities = replace(CAPABILITIES, ttl=True)

    @pytest.fixture
    def store_url(self, valkey_url: str) -> str:
        self.store_address = valkey_url.removeprefix("redis://")
        return f"hot+{valkey_url}?hot_bytes=32KiB&hot_ttl=0.3"


@pytest.mark.variant
class TestBehindAnAudit(_WithRoomBesideTheArena):
    url = "audit+hot+memory://audited?audit_verify=false&hot_bytes=64MiB&hot_ttl=0.3"
    capabilities = CAPABILITIES
