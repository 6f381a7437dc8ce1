"""`diagnose_replicas`: whether the servers with copies can be reached. Nothing is written there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial

from lmcache_connect.contract import Finding, Verdict

from ..topology.single import SingleServer
from .reaching import ServerReaching
from .several import diagnose_side_by_side


async def diagnose_replicas(servers: Mapping[str, SingleServer], timeout: float) -> list[Finding]:
    """Returns which of the replicas can be reached, all of them side by side within `timeout` seconds."""
    return await diagnose_side_by_side({name: partial(_reach, server, timeout) for name, server in servers.items()})


async def _reach(server: SingleServer, timeout: float) -> AsyncIterator[Finding]:
    reaching = ServerReaching(server, timeout)
    try:
        async for finding in reaching.findings():
            if finding.verdict is Verdict.UNUSABLE:
                yield Finding("replicas", Verdict.UNUSABLE, finding.found, finding.advice)
                return
    finally:
        if reaching.connection is not None:
            reaching.connection.close()
    yield Finding("replicas", Verdict.GOOD, "reached")
