"""Judges a server's settings and state: what hurts a cache of large chunks, and the value to set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from lmcache_connect.contract import Finding, Verdict

from .demands import Demands
from .server_facts import SETTINGS, ServerFacts, shown
from .sizes import conf_size, shown_size

_FULL: Final = 0.95
_NEARLY_FULL: Final = 0.85
_BUFFER_BYTES: Final = 256 << 20
"""What answers to pipelined gets may wait in a server for one connection: a smaller limit cuts connections."""

_BULK_DEFAULT: Final = 512 << 20
_IDLE_SECONDS: Final = 60

_IN_INFO: Final = frozenset({"maxmemory", "maxmemory-policy", "appendonly", "maxclients", "io-threads"})
"""What INFO tells as well, at least by newer servers."""


def judge(facts: ServerFacts, demands: Demands) -> list[Finding]:
    """Returns what is to be said of a server's settings and of its state."""
    findings = [finding for look in _LOOKS for finding in look(facts, demands)]
    findings += _not_looked_at(facts)
    return findings


def _memory(facts: ServerFacts, demands: Demands) -> Iterator[Finding]:
    limit = facts.number("maxmemory")
    used = facts.number("used_memory") or 0
    if limit is None:
        return
    if limit == 0:
        whole = facts.number("total_system_memory")
        value = conf_size(whole * 7 // 10) if whole else "<bytes>"
        found = "0, no limit: the system ends a server that takes all memory"
        advice = f"CONFIG SET maxmemory {value}: 7/10 of the memory, less where it is shared"
        yield Finding("maxmemory", Verdict.HURTS, found, advice)
        return
    share = used / limit
    found = f"{shown_size(used)} of {shown_size(limit)} used ({share:.0%})"
    evicted = facts.number("evicted_keys") or 0
    if not _evicts(_policy(facts), demands) and share >= _NEARLY_FULL:
        verdict = Verdict.FAILS if share >= _FULL else Verdict.HURTS
        advice = "raise maxmemory, or CONFIG SET maxmemory-policy allkeys-lru: a full server refuses puts"
        yield Finding("maxmemory", verdict, found, advice)
    elif evicted:
        yield Finding("maxmemory", Verdict.NOTE, f"{found}; {evicted} keys evicted", "more memory would keep them")
    else:
        yield Finding("maxmemory", Verdict.GOOD, found)


def _eviction(facts: ServerFacts, demands: Demands) -> Iterator[Finding]:
    policy = _policy(facts)
    if not policy:
        return
    advice = "CONFIG SET maxmemory-policy allkeys-lru (or allkeys-lfu)"
    if policy == "noeviction":
        found = "noeviction: puts are dropped when the memory is full"
        yield Finding("maxmemory-policy", Verdict.HURTS, found, advice)
    elif policy.startswith("volatile-") and demands.ttl is None:
        found = f"{shown(policy)}: it evicts keys with a TTL alone, and these chunks have none"
        yield Finding("maxmemory-policy", Verdict.HURTS, found, f"{advice}, or ?ttl= in the URL")
    elif policy in {"allkeys-lru", "allkeys-lfu"}:
        yield Finding("maxmemory-policy", Verdict.GOOD, policy)
    else:
        yield Finding(
            "maxmemory-policy", Verdict.NOTE, f"{shown(policy)}: it keeps no chunk longer for being used", advice
        )


def _bulk(facts: ServerFacts, demands: Demands) -> Iterator[Finding]:
    limit = facts.number("proto-max-bulk-len")
    if limit is None:
        return
    found = shown_size(limit)
    if limit >= demands.whole_bytes:
        yield Finding("proto-max-bulk-len", Verdict.GOOD, found)
        return
    longest = shown_size(demands.whole_bytes)
    found = f"{found}: values of up to {longest} are sent, and the server closes the connection over a longer one"
    advice = f"CONFIG SET proto-max-bulk-len {conf_size(_BULK_DEFAULT)}"
    yield Finding("proto-max-bulk-len", Verdict.FAILS, found, advice)


def _output_buffers(facts: ServerFacts, demands: Demands) -> Iterator[Finding]:
    words = facts.config.get("client-output-buffer-limit", "").split()
    if "normal" not in words or len(words) < words.index("normal") + 4:
        return
    at = words.index("normal")
    hard, soft, seconds = (int(word) if word.isascii() and word.isdigit() else 0 for word in words[at + 1 : at + 4])
    limits = [limit for limit in (hard, soft) if limit]
    subject = "client-output-buffer-limit"
    if not limits:
        yield Finding(subject, Verdict.GOOD, "none for normal clients")
        return
    found = f"normal {shown_size(hard)} {shown_size(soft)} {seconds} s"
    if min(limits) >= max(_BUFFER_BYTES, 2 * demands.whole_bytes):
        yield Finding(subject, Verdict.GOOD, found)
        return
    found = f"{found}: the server cuts a connection whose answers wait, as those of large gets do"
    yield Finding(subject, Verdict.HURTS, found, f'CONFIG SET {subject} "normal 0 0 0"')


def _threads(facts: ServerFacts, _: Demands) -> Iterator[Finding]:
    threads = facts.number("io-threads")
    if threads is None:
        active = facts.number("io_threads_active")
        if active:
            yield Finding("io-threads", Verdict.GOOD, "active")
        return
    if threads > 1:
        yield Finding("io-threads", Verdict.GOOD, str(threads))
        return
    found = "1, one thread moves the bytes of all connections"
    yield Finding("io-threads", Verdict.NOTE, found, "io-threads 4 in the configuration file, where it has the cores")


def _persistence(facts: ServerFacts, _: Demands) -> Iterator[Finding]:
    save, aof = facts.config.get("save"), facts.config.get("appendonly")
    if aof is None and (enabled := facts.info.get("aof_enabled")) is not None:
        aof = "yes" if enabled == "1" else "no"
    if save:
        found = f"save '{shown(save)}': a fork writes all chunks to the disk, takes memory, and stalls the server"
        yield Finding("persistence (RDB)", Verdict.HURTS, found, 'CONFIG SET save ""')
    if aof == "yes":
        found = "appendonly yes: every chunk is written to the disk as well"
        yield Finding("persistence (AOF)", Verdict.HURTS, found, "CONFIG SET appendonly no")
    if save == "" and aof == "no":
        yield Finding("persistence", Verdict.GOOD, "off")
    if facts.info.get("rdb_last_bgsave_status") == "err":
        found = "the last one failed; with stop-writes-on-bgsave-error the server refuses writes"
        yield Finding("persistence (RDB)", Verdict.FAILS, found, 'free the disk, or CONFIG SET save ""; see its log')
    if facts.info.get("loading") == "1":
        found = f"the server is loading its data: {shown(facts.info.get('loading_loaded_perc', '?'))} %"
        yield Finding("loading", Verdict.FAILS, found, "wait until it has ended")


def _idle(facts: ServerFacts, _: Demands) -> Iterator[Finding]:
    seconds = facts.number("timeout")
    if seconds is None:
        return
    if not seconds:
        yield Finding("timeout", Verdict.GOOD, "0, idle connections stay")
        return
    verdict = Verdict.HURTS if seconds < _IDLE_SECONDS else Verdict.NOTE
    found = f"{seconds} s: the server closes idle connections, and the next call connects again"
    yield Finding("timeout", verdict, found, "CONFIG SET timeout 0")


def _keepalive(facts: ServerFacts, _: Demands) -> Iterator[Finding]:
    seconds = facts.number("tcp-keepalive")
    if seconds is None:
        return
    if seconds:
        yield Finding("tcp-keepalive", Verdict.GOOD, f"{seconds} s")
        return
    found = "0, connections of clients that are gone stay open"
    yield Finding("tcp-keepalive", Verdict.HURTS, found, "CONFIG SET tcp-keepalive 300")


def _clients(facts: ServerFacts, demands: Demands) -> Iterator[Finding]:
    most, now = facts.number("maxclients"), facts.number("connected_clients")
    if most is None or now is None:
        return
    found = f"{now} of {most} connected; this URL opens up to {demands.connections} a process"
    if most - now < demands.connections:
        yield Finding("maxclients", Verdict.FAILS, found, f"CONFIG SET maxclients {max(10_000, 2 * most)}")
    elif now > _NEARLY_FULL * most:
        yield Finding("maxclients", Verdict.HURTS, found, f"CONFIG SET maxclients {max(10_000, 2 * most)}")
    else:
        yield Finding("maxclients", Verdict.GOOD, found)


def _coverage(facts: ServerFacts, _: Demands) -> Iterator[Finding]:
    subject = "cluster-require-full-coverage"
    if facts.info.get("cluster_enabled") == "1" and facts.config.get(subject) == "yes":
        found = "yes: one lost shard stops all others"
        yield Finding(subject, Verdict.HURTS, found, f"CONFIG SET {subject} no")


def _role(facts: ServerFacts, _: Demands) -> Iterator[Finding]:
    if facts.info.get("role") != "slave":
        return
    primary = shown(f"{facts.info.get('master_host', '?')}:{facts.info.get('master_port', '?')}")
    found = f"a replica of {primary}: it refuses writes (READONLY)"
    yield Finding("role", Verdict.FAILS, found, f"point the URL at {primary}, or use redis-sentinel://")


_LOOKS: Final[tuple[Callable[[ServerFacts, Demands], Iterator[Finding]], ...]] = (
    _role,
    _memory,
    _eviction,
    _bulk,
    _output_buffers,
    _threads,
    _persistence,
    _idle,
    _keepalive,
    _clients,
    _coverage,
)


def _not_looked_at(facts: ServerFacts) -> Iterator[Finding]:
    if facts.info_refusal:
        found = f"INFO: {facts.info_refusal}"
        yield Finding("state", Verdict.UNKNOWN, found, "allow +info, or look at INFO on the server")
    told = {*facts.config} | (_IN_INFO if facts.info else frozenset())
    missing = [name for name in SETTINGS if name not in told and not name.startswith("cluster-")]
    if facts.config_refusal and missing:
        found = f"CONFIG GET: {facts.config_refusal}; not looked at: {', '.join(missing)}"
        yield Finding("settings", Verdict.UNKNOWN, found, "allow +config|get, or look at them on the server")


def _policy(facts: ServerFacts) -> str:
    return facts.config.get("maxmemory-policy") or facts.info.get("maxmemory_policy", "")


def _evicts(policy: str, demands: Demands) -> bool:
    return policy.startswith("allkeys-") or (policy.startswith("volatile-") and demands.ttl is not None)
