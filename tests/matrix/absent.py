"""Why a fault is not tried on a connector: one entry for each cell that the matrix does not have."""

from __future__ import annotations

from typing import Final

from .columns import Column
from .faults.fault import Fault

_NETWORKED: Final = ("redis", "unix", "tls", "sentinel", "cluster", "ring", "hot", "external")
_ENGINES: Final = ("port", "native", "l2", "vllm", "sglang")


def _all(reason: str, *columns: str) -> dict[str, str]:
    return dict.fromkeys(columns, reason)


BY_NEED: Final[dict[str, dict[str, str]]] = {
    "": {},
    "wire": {"memory": "no network"},
    "reply": {"memory": "no network", "s3": "HTTP"},
    "errors": {"memory": "no network", "s3": "HTTP"},
    "http": _all("no HTTP", "memory", *_NETWORKED, *_ENGINES),
    "server": {"memory": "no server"},
    "volatile": {"memory": "no server", "s3": "on disk"},
    "single": {"memory": "no server", "s3": "no replicas", "sentinel": "failover", "cluster": "failover"},
    "group": {
        "memory": "no server",
        **_all("no replicas", "redis", "unix", "tls", "ring", "s3", "hot", "external", *_ENGINES),
    },
    "full": {"memory": "arena", "s3": "no quota"},
    "expiry": _all("no TTL", "memory", "s3", "external"),
    "login": _all("no login", "memory", "external") | {"s3": "keys"},
    "s3 login": _all("no S3", "memory", *_NETWORKED, *_ENGINES),
    "certificate": _all("no TLS", "memory", "redis", "unix", "s3", "external")
    | _all("as TLS", "sentinel", "cluster", "ring", "hot", *_ENGINES),
    "plug-in": _all("own code", "memory", "redis", "unix", "tls", "sentinel", "cluster", "ring", "s3", "hot"),
}
"""By what a fault needs, and by column."""

ENGINES: Final[dict[str, str]] = {
    "second-loop": "own loop",
    "loop-stopped": "own loop",
    "cancel": "no cancel",
    "arena-full": "own memory",
    "plugin-raises": "as external",
    "plugin-exits": "as external",
    "plugin-hangs": "as external",
    "plugin-answers": "as external",
    "plugin-blocks": "as external",
}
"""By fault, for the clients of engines."""

LEGEND: Final[dict[str, str]] = {
    "no network": "the store is in this process",
    "no server": "the store is in this process",
    "no HTTP": "the store does not speak HTTP",
    "HTTP": "it speaks HTTP; see the rows with status codes",
    "on disk": "a restart loses nothing",
    "no replicas": "there is no replica that takes over",
    "failover": "another primary is looked for: see planned failover",
    "arena": "see arena full",
    "no quota": "the test servers have no limit",
    "no TTL": "this store, or this connector, has no time to live",
    "no login": "this store, or this connector, has no login",
    "keys": "see expired access key",
    "no S3": "the store does not speak S3",
    "no TLS": "this URL has no TLS",
    "as TLS": "the same code as TLS",
    "own code": "it is part of this toolkit",
    "own loop": "its event loop is its own, in a thread",
    "no cancel": "its jobs end by their deadlines",
    "own memory": "the engine owns the memory",
    "as external": "see external",
}
"""What each word means."""


def reason(fault: Fault, column: Column) -> str:
    """Why there is no such cell.

    Raises:
        KeyError: the tables have no reason.
    """
    if column.is_engine and fault.only_applications:
        return ENGINES[fault.name]
    return BY_NEED[fault.needs][column.name]
