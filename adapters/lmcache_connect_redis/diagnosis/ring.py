"""`diagnose_ring`: each server of a ring, side by side. One that is lost costs its own keys alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial

from lmcache_connect.contract import Finding

from ..options import RedisOptions
from ..topology.data_nodes import shown
from ..topology.placement import Address
from ..topology.single import SingleServer
from .demands import Demands
from .server import diagnose_server
from .several import diagnose_side_by_side


async def diagnose_ring(
    servers: Mapping[Address, SingleServer], options: RedisOptions, timeout: float
) -> AsyncIterator[Finding]:
    """Yields what is found about the servers of a ring. Each step ends within `timeout` seconds."""
    demands = Demands.of(options, options.db or 0, is_ring=True)
    diagnoses = {
        shown(address): partial(diagnose_server, server, demands, timeout) for address, server in servers.items()
    }
    for finding in await diagnose_side_by_side(diagnoses, all_needed=True):
        yield finding
