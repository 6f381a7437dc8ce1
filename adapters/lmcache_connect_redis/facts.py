"""`facts_in`: what a server's answer to INFO says."""

from __future__ import annotations

from typing import Final

from lmcache_connect.contract import ServerFacts
from lmcache_connect.known_secrets import clean_foreign

INFO_LIMIT: Final = 48 << 10
"""The longest answer to INFO that is read, in bytes. Redis 7.0 and Valkey 9 answer with about 6 KiB."""

_MOST_CHARACTERS: Final = 64


def facts_in(answer: str) -> ServerFacts | None:
    """The facts in an answer to INFO; None where it does not say which process answers."""
    said: dict[str, str] = {}
    for line in answer.splitlines():
        name, found, value = line.partition(":")
        if found:
            said[name] = value.strip()
    run_id, uptime = said.get("run_id"), _number(said, "uptime_in_seconds")
    if not run_id or uptime is None:
        return None
    product = "valkey" if "valkey_version" in said else "redis"
    policy = said.get("maxmemory_policy")
    writes = [said[name] for name in ("rdb_last_bgsave_status", "aof_last_write_status") if name in said]
    version = clean_foreign(said.get(f"{product}_version", ""), limit=_MOST_CHARACTERS)
    return ServerFacts(
        run_id=run_id[:_MOST_CHARACTERS],
        uptime=float(uptime),
        product=f"{product} {version}".strip()[:_MOST_CHARACTERS],
        memory=_number(said, "used_memory"),
        memory_limit=_number(said, "maxmemory"),
        evicts=None if policy is None else policy != "noeviction",
        expired=_number(said, "expired_keys"),
        evicted=_number(said, "evicted_keys"),
        connections=_number(said, "connected_clients"),
        saves=all(each == "ok" for each in writes) if writes else None,
        is_replica=said["role"] == "slave" if "role" in said else None,
    )


def _number(said: dict[str, str], name: str) -> int | None:
    value = said.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None
