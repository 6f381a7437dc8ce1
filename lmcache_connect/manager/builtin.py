"""The schemes that this distribution brings, and where their adapters are."""

from __future__ import annotations

from typing import Final

from ..contract import ANY_SCHEME
from .adapter_target import DISTRIBUTION, AdapterTarget

_REDIS: Final = "lmcache_connect_redis.adapter:RedisConnectorAdapter"


_AUDIT: Final = "lmcache_connect_trials.audit_adapter:AuditConnectorAdapter"


BUILTIN: Final = {
    item.scheme: item
    for item in (
        AdapterTarget("redis", _REDIS, DISTRIBUTION, "redis"),
        AdapterTarget("rediss", _REDIS, DISTRIBUTION, "redis"),
        AdapterTarget("unix", _REDIS, DISTRIBUTION, "redis"),
        AdapterTarget("valkey", _REDIS, DISTRIBUTION, "redis"),
        AdapterTarget("valkeys", _REDIS, DISTRIBUTION, "redis"),
        AdapterTarget("s3", "lmcache_connect_s3.adapter:S3ConnectorAdapter", DISTRIBUTION, "s3"),
        AdapterTarget("external", "lmcache_connect_external.adapter:ExternalConnectorAdapter", DISTRIBUTION),
        AdapterTarget("audit", _AUDIT, DISTRIBUTION),
        AdapterTarget(f"audit+{ANY_SCHEME}", _AUDIT, DISTRIBUTION),
        AdapterTarget("blackhole", "lmcache_connect_trials.blackhole:BlackholeConnectorAdapter", DISTRIBUTION),
        AdapterTarget(
            f"fault+{ANY_SCHEME}", "lmcache_connect_trials.fault_adapter:FaultConnectorAdapter", DISTRIBUTION
        ),
        AdapterTarget("mock", "lmcache_connect_trials.mock:MockConnectorAdapter", DISTRIBUTION),
        AdapterTarget("memory", "lmcache_reference_connectors.memory:MemoryConnectorAdapter", DISTRIBUTION),
    )
}
