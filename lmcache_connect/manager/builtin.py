"""What is built in and stands above this package or beside it: the one table of names that are imported on first use.

Everything else imports only what stands below it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

from ..contract import ANY_SCHEME, ConnectorContext
from ..foreign import Dialect
from .adapter_target import AdapterTarget

DISTRIBUTION: Final = "lmcache-connect"


def _targets(target: str, extra: str | None, *schemes: str) -> dict[str, AdapterTarget]:
    return {scheme: AdapterTarget(scheme, target, DISTRIBUTION, extra) for scheme in schemes}


_TRIALS: Final = "lmcache_connect_trials"

ADAPTERS: Final[dict[str, AdapterTarget]] = {
    **_targets(
        "lmcache_connect_redis.adapter:RedisConnectorAdapter",
        "redis",
        *("redis", "rediss", "unix", "valkey", "valkeys"),
    ),
    **_targets("lmcache_connect_s3.adapter:S3ConnectorAdapter", "s3", "s3"),
    **_targets("lmcache_connect_external.adapter:ExternalConnectorAdapter", None, "external"),
    **_targets(f"{_TRIALS}.audit_adapter:AuditConnectorAdapter", None, "audit", f"audit+{ANY_SCHEME}"),
    **_targets(f"{_TRIALS}.blackhole:BlackholeConnectorAdapter", None, "blackhole"),
    **_targets(f"{_TRIALS}.fault_adapter:FaultConnectorAdapter", None, f"fault+{ANY_SCHEME}"),
    **_targets(f"{_TRIALS}.mock:MockConnectorAdapter", None, "mock"),
    **_targets("lmcache_reference_connectors.memory:MemoryConnectorAdapter", None, "memory"),
}
"""The schemes that this distribution brings, and the adapter of each."""

_COMPAT: Final = "lmcache_connect.compat"


def install_lmcache_names() -> None:
    """Makes `import lmcache...` give this toolkit's types, in the whole process; see `lmcache_connect.compat.install`.

    Raises:
        LMCacheInstalledError: LMCache itself is installed.
    """
    import_module(_COMPAT).install()


def find_dialect(kind: type[Any], context: ConnectorContext) -> Dialect | None:
    """LMCache's dialect, for a class that was written for LMCache; None for any other class.

    Imports nothing where the process has imported neither LMCache nor its stand-in: no such class can exist then.
    """
    if "lmcache" not in sys.modules and _COMPAT not in sys.modules:
        return None
    found: Dialect | None = import_module(_COMPAT).find_dialect(kind, context)
    return found
