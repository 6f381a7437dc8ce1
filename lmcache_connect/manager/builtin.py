"""The schemes that this distribution brings. Each adapter is imported on first use."""

from __future__ import annotations

from typing import Final

from ..contract import ANY_SCHEME
from .adapter_target import AdapterTarget

DISTRIBUTION: Final = "lmcache-connect"


def _targets(target: str, extra: str | None, *schemes: str) -> dict[str, AdapterTarget]:
    return {scheme: AdapterTarget(scheme, target, DISTRIBUTION, extra) for scheme in schemes}


_COMPOSITION: Final = "lmcache_connect_composition"
_TRIALS: Final = "lmcache_connect_trials"

ADAPTERS: Final[dict[str, AdapterTarget]] = {
    **_targets(
        "lmcache_connect_redis.adapter:RedisConnectorAdapter",
        None,
        *("redis", "rediss", "unix", "valkey", "valkeys"),
    ),
    **_targets(
        "lmcache_connect_redis.ring.adapter:RedisRingConnectorAdapter",
        None,
        *("redis-ring", "rediss-ring", "valkey-ring", "valkeys-ring"),
    ),
    **_targets(
        "lmcache_connect_redis.sentinel.adapter:RedisSentinelConnectorAdapter",
        None,
        *("redis-sentinel", "rediss-sentinel", "valkey-sentinel", "valkeys-sentinel"),
    ),
    **_targets(
        "lmcache_connect_redis.cluster.adapter:RedisClusterConnectorAdapter",
        None,
        *("redis-cluster", "rediss-cluster", "valkey-cluster", "valkeys-cluster"),
    ),
    **_targets("lmcache_connect_s3.adapter:S3ConnectorAdapter", "s3", "s3"),
    **_targets("lmcache_connect_external.adapter:ExternalConnectorAdapter", None, "external"),
    **_targets(f"{_COMPOSITION}.hot_adapter:HotConnectorAdapter", None, f"hot+{ANY_SCHEME}"),
    **_targets(f"{_TRIALS}.audit_adapter:AuditConnectorAdapter", None, "audit", f"audit+{ANY_SCHEME}"),
    **_targets(f"{_TRIALS}.blackhole:BlackholeConnectorAdapter", None, "blackhole"),
    **_targets(f"{_TRIALS}.fault_adapter:FaultConnectorAdapter", None, f"fault+{ANY_SCHEME}"),
    **_targets(f"{_TRIALS}.mock:MockConnectorAdapter", None, "mock"),
    **_targets("lmcache_reference_connectors.memory:MemoryConnectorAdapter", None, "memory"),
}
"""The schemes that this distribution brings, and the adapter of each."""

_OURS: Final = frozenset(
    {"lmcache_connect", *(target.target.partition(":")[0].partition(".")[0] for target in ADAPTERS.values())}
)


def is_ours(kind: type[object]) -> bool:
    """Whether this distribution brings a class. Any other class is foreign, also one of the application's."""
    return str(getattr(kind, "__module__", "")).partition(".")[0] in _OURS
