"""`diagnose_url`: the one server of a URL, or the service that its sentinels watch over."""

from __future__ import annotations

from collections.abc import AsyncIterator

from lmcache_connect.contract import Finding

from ..options import RedisOptions, database
from ..topology.sentinel import SentinelPrimary
from ..topology.server import Server
from ..topology.single import SingleServer
from .demands import Demands
from .sentinels import diagnose_service
from .server import diagnose_server


async def diagnose_url(server: Server, options: RedisOptions, timeout: float) -> AsyncIterator[Finding]:
    """Yields what is found. Each step ends within `timeout` seconds. Another kind of server yields nothing."""
    if isinstance(server, SingleServer):
        demands = Demands.of(options, database(server.url, options))
        async for finding in diagnose_server(server, demands, timeout):
            yield finding
    elif isinstance(server, SentinelPrimary):
        demands = Demands.of(options, options.db or 0)
        async for finding in diagnose_service(server.sentinels, server.nodes, demands, timeout):
            yield finding
