"""`diagnose_server`: all that is to be found out about one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import Finding, Verdict
from lmcache_connect.transport import StreamClosedError

from ..protocol.connection import Connection, lost_connection
from ..topology.single import SingleServer
from .command_trials import try_commands
from .demands import Demands
from .reaching import ServerReaching
from .server_facts import ServerFacts, read_facts
from .settings import judge

_LOST: Final = "see the server's log"


@dataclass
class Seen:
    """What was seen of a server besides the findings. `facts` None: it was not reached."""

    facts: ServerFacts | None = field(default=None)


async def diagnose_server(
    server: SingleServer,
    demands: Demands,
    timeout: float,
    *,
    tag: str = "",
    is_replica: bool = False,
    seen: Seen | None = None,
) -> AsyncIterator[Finding]:
    """Yields what is found, step by step. The first steps end together within `timeout` seconds, each later one too.

    `tag`: see `try_commands`. `is_replica`: it is one by right, and no command is tried that writes. `seen` is filled.
    """
    reaching = ServerReaching(server, timeout)
    try:
        async for finding in reaching.findings():
            yield finding
        connection = reaching.connection
        if connection is None:
            return
        for step in ("server", "commands"):
            try:
                async with asyncio.timeout(timeout):
                    if step == "server":
                        found = await _facts(connection, demands, seen or Seen(), is_replica=is_replica)
                    else:
                        found = [] if is_replica else await try_commands(connection, demands, tag)
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


async def _facts(connection: Connection, demands: Demands, seen: Seen, *, is_replica: bool) -> list[Finding]:
    facts = seen.facts = await read_facts(connection)
    mode = facts.info.get("redis_mode") or facts.info.get("server_mode") or ""
    about = f"{facts.product}{', ' + mode if mode else ''}"
    verdict = Verdict.UNKNOWN if facts.info_refusal else Verdict.GOOD
    return [
        Finding("server", verdict, about),
        *(one for one in judge(facts, demands) if not (is_replica and one.subject == "role")),
    ]
