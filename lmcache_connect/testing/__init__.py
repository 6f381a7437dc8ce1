"""Tools for testing connectors: conformance suite, real servers, faults, values that say whose they are, watches.

Needs the extra `lmcache-connect[testing]`. Each name is imported on first use, with what it needs.
Imported by `cli`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .conformance import Capabilities, ConnectorConformance
    from .loop_io import LoopIO
    from .loop_watch import LoopWatch
    from .proof.book import Book, Version
    from .proof.deadlines import seconds_allowed
    from .proof.guarded_memory import GuardedMemory
    from .proof.lag import Lag, LagWatch
    from .proof.resource_use import ResourceUse, ResourceWatch
    from .proof.stamped_value import StampedValue, WrongValueError
    from .proof.watched_call import WatchedCall, watch_call
    from .scripted_wire import ScriptedWire
    from .servers import redis_faults, s3_faults
    from .servers.ceph import CephServer
    from .servers.cluster import ClusterServers
    from .servers.fault_proxy import FaultProxy
    from .servers.faulty_redis import FaultyRedisProxy
    from .servers.faulty_s3 import FaultyS3Server
    from .servers.process import ServerStartError
    from .servers.redis import RedisServer, ValkeyServer
    from .servers.ring import RingServers
    from .servers.s3 import MotoServer, RcloneServer
    from .servers.sentinel import SentinelServers
    from .servers.server_group import GroupNotHealthyError
    from .servers.slot_migration import SlotMigration
    from .servers.tcp_faults import Direction, Fault, FaultKind
    from .servers.weather import CUTS, Weather
    from .subject import Subject, check_arena_balance, check_payload, payload

__all__ = [
    "CUTS",
    "Book",
    "Capabilities",
    "CephServer",
    "ClusterServers",
    "ConnectorConformance",
    "Direction",
    "Fault",
    "FaultKind",
    "FaultProxy",
    "FaultyRedisProxy",
    "FaultyS3Server",
    "GroupNotHealthyError",
    "GuardedMemory",
    "Lag",
    "LagWatch",
    "LoopIO",
    "LoopWatch",
    "MotoServer",
    "RcloneServer",
    "RedisServer",
    "ResourceUse",
    "ResourceWatch",
    "RingServers",
    "ScriptedWire",
    "SentinelServers",
    "ServerStartError",
    "SlotMigration",
    "StampedValue",
    "Subject",
    "ValkeyServer",
    "Version",
    "WatchedCall",
    "Weather",
    "WrongValueError",
    "check_arena_balance",
    "check_payload",
    "payload",
    "redis_faults",
    "s3_faults",
    "seconds_allowed",
    "watch_call",
]

_MODULES: Final = {
    "conformance": ("Capabilities", "ConnectorConformance"),
    "servers.ceph": ("CephServer",),
    "servers.cluster": ("ClusterServers",),
    "servers.fault_proxy": ("FaultProxy",),
    "servers.faulty_redis": ("FaultyRedisProxy",),
    "servers.faulty_s3": ("FaultyS3Server",),
    "loop_io": ("LoopIO",),
    "loop_watch": ("LoopWatch",),
    "proof.book": ("Book", "Version"),
    "proof.deadlines": ("seconds_allowed",),
    "proof.guarded_memory": ("GuardedMemory",),
    "proof.lag": ("Lag", "LagWatch"),
    "proof.resource_use": ("ResourceUse", "ResourceWatch"),
    "proof.stamped_value": ("StampedValue", "WrongValueError"),
    "proof.watched_call": ("WatchedCall", "watch_call"),
    "scripted_wire": ("ScriptedWire",),
    "servers.s3": ("MotoServer", "RcloneServer"),
    "servers.tcp_faults": ("Direction", "Fault", "FaultKind"),
    "servers.weather": ("CUTS", "Weather"),
    "servers.ring": ("RingServers",),
    "servers.sentinel": ("SentinelServers",),
    "servers.server_group": ("GroupNotHealthyError",),
    "servers.slot_migration": ("SlotMigration",),
    "servers.process": ("ServerStartError",),
    "servers.redis": ("RedisServer", "ValkeyServer"),
    "subject": ("Subject", "check_arena_balance", "check_payload", "payload"),
}
_NAMESPACES: Final = {"redis_faults": "servers.redis_faults", "s3_faults": "servers.s3_faults"}
"""Modules that are exported as they are: their names are short, and read well behind the module's."""

_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _NAMESPACES:
        return importlib.import_module(f"{__name__}.{_NAMESPACES[name]}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
