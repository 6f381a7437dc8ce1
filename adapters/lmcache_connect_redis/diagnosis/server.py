"""`diagnose_server`: all that is to be found out about one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import Finding, Verdict
from lmcache_connect.transport import StreamClosedError

from ..protocol.connection import Connection, lost_connection
from ..topology.single import SingleServer
from .command_trials import try_commands, try_few_commands
from .demands import Demands
from .reaching import ServerReaching
from .server_facts import read_facts, shown
from .settings import judge

_LOST: Final = "see the server's log"

_PROXY: Final = "a proxy that closes the connection over commands which it lacks: it is asked for no settings"
_PROXY_ADVICE: Final = "large chunks are stored whole; check the server behind it by its own address"


async def diagnose_server(
    server: SingleServer,
    demands: Demands,
    timeout: float,
    *,
    tag: str = "",
) -> AsyncIterator[Finding]:
    """Yields what is found, step by step. The first steps end together within `timeout` seconds, each later one too.

    `tag`: see `try_commands`.
    """
    reaching = ServerReaching(server, timeout)
    try:
        async for finding in reaching.findings():
            yield finding
        connection = reaching.connection
        if connection is None:
            return
        knows_little = connection.traits.knows_little
        if knows_little:
            yield Finding("server", Verdict.NOTE, _PROXY, _PROXY_ADVICE)
        for step in ("commands",) if knows_little else ("server", "commands"):
            try:
                async with asyncio.timeout(timeout):
                    if step == "server":
                        found = await _facts(connection, demands)
                    elif knows_little:
                        found = await try_few_commands(connection, demands)
                    else:
                        found = await try_commands(connection, demands, tag)
            except TimeoutError:
                found = [Finding(step, Verdict.FAILS, f"no answer within {timeout:g} s", _LOST)]
            except StreamClosedError as error:
                found = [Finding(step, Verdict.FAILS, lost_connection(connection.store, error).message, _LOST)]
            except StoreError as error:
                found = [Finding(step, Verdict.FAILS, error.message, _LOST)]
            for finding in found:
                yield finding
            if not connection.stream.is_open:
                return
    finally:
        if reaching.connection is not None:
            reaching.connection.close()


async def _facts(connection: Connection, demands: Demands) -> list[Finding]:
    facts = await read_facts(connection)
    mode = shown(facts.info.get("redis_mode") or facts.info.get("server_mode") or "")
    about = f"{facts.product}{', ' + mode if mode else ''}"
    findings = [Finding("server", Verdict.UNKNOWN if facts.info_refusal else Verdict.GOOD, about)]
    if facts.info.get("cluster_enabled") == "1" and not connection.is_of_cluster:
        found = "the server is a node of a cluster, and has some of the keys alone"
        findings.append(Finding("cluster", Verdict.FAILS, found, "use redis-cluster:// or rediss-cluster://"))
    return [*findings, *judge(facts, demands)]
