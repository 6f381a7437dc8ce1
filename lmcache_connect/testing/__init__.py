"""Tools for testing connectors: conformance suite, real servers, fault proxy, scripted wire, a watch on the event loop.

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
    from .scripted_wire import ScriptedWire
    from .servers.ceph import CephServer
    from .servers.cluster import ClusterServers
    from .servers.fault_proxy import FaultProxy
    from .servers.faulty_s3 import FaultyS3Server
    from .servers.process import ServerStartError
    from .servers.redis import RedisServer, ValkeyServer
    from .servers.ring import RingServers
    from .servers.s3 import MotoServer, RcloneServer
    from .servers.sentinel import SentinelServers
    from .servers.server_group import GroupNotHealthyError
    from .servers.slot_migration import SlotMigration
    from .servers.tcp_faults import Direction, Fault, FaultKind
    from .subject import Subject, check_arena_balance, check_payload, payload

__all__ = [
    "Capabilities",
    "CephServer",
    "ClusterServers",
    "ConnectorConformance",
    "Direction",
    "Fault",
    "FaultKind",
    "FaultProxy",
    "FaultyS3Server",
    "GroupNotHealthyError",
    "LoopIO",
    "LoopWatch",
    "MotoServer",
    "RcloneServer",
    "RedisServer",
    "RingServers",
    "ScriptedWire",
    "SentinelServers",
    "ServerStartError",
    "SlotMigration",
    "Subject",
    "ValkeyServer",
    "check_arena_balance",
    "check_payload",
    "payload",
]

_MODULES: Final = {
    "conformance": ("Capabilities", "ConnectorConformance"),
    "servers.ceph": ("CephServer",),
    "servers.cluster": ("ClusterServers",),
    "servers.fault_proxy": ("FaultProxy",),
    "servers.faulty_s3": ("FaultyS3Server",),
    "loop_io": ("LoopIO",),
    "loop_watch": ("LoopWatch",),
    "scripted_wire": ("ScriptedWire",),
    "servers.s3": ("MotoServer", "RcloneServer"),
    "servers.tcp_faults": ("Direction", "Fault", "FaultKind"),
    "servers.ring": ("RingServers",),
    "servers.sentinel": ("SentinelServers",),
    "servers.server_group": ("GroupNotHealthyError",),
    "servers.slot_migration": ("SlotMigration",),
    "servers.process": ("ServerStartError",),
    "servers.redis": ("RedisServer", "ValkeyServer"),
    "subject": ("Subject", "check_arena_balance", "check_payload", "payload"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
