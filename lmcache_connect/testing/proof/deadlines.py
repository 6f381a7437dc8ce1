"""`seconds_allowed`: how long a call may take at most, as `docs/operating.md` says."""

from __future__ import annotations

from typing import Any, Final

from ...config import ConnectorConfig

_UNKNOWN_CHUNK: Final = 64 << 20
"""What the deadline of a get allows for each chunk, whose size it does not know."""

_PER_KEY: Final = 0.01
"""Seconds for each further key of a batch."""


def seconds_allowed(config: ConnectorConfig, operation: str, *args: Any) -> float:
    """The seconds that a managed connector's call may take from its beginning to its end: more for many bytes.

    Args:
        config: the settings of the connector's manager.
        operation: the name of the method, such as `"batched_get"`.
        args: its positional arguments.
    """
    nbytes, keys = 0, 1
    match operation:
        case "put":
            nbytes = args[1].get_size()
        case "batched_put":
            nbytes = sum(obj.get_size() for obj in args[1])
        case "put_from" | "get_into":
            nbytes = sum(map(len, args[1]))
        case "batched_put_from" | "batched_get_into":
            nbytes = sum(len(view) for views in args[1] for view in views)
        case "get":
            nbytes = _UNKNOWN_CHUNK
        case "batched_get":
            nbytes = len(args[0]) * _UNKNOWN_CHUNK
    if operation.startswith("batched_"):
        keys = len(args[0])
    return float(config.operation_timeout + nbytes / config.min_throughput + _PER_KEY * (keys - 1))
