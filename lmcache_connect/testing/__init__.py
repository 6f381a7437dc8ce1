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
    from .servers.fault_proxy import FaultProxy
    from .servers.faulty_s3 import FaultyS3Server
    from .servers.process import ServerStartError
    from .servers.redis import RedisServer, ValkeyServer
    from .servers.s3 import MotoServer, RcloneServer
    from .servers.tcp_faults import Direction, Fault, FaultKind
    from .subject import Subject, check_arena_balance, check_payload, payload

__all__ = [
    "Capabilities",
    "CephServer",
    "ConnectorConformance",
    "Direction",
    "Fault",
    "FaultKind",
    "FaultProxy",
    "FaultyS3Server",
    "LoopIO",
    "LoopWatch",
    "MotoServer",
    "RcloneServer",
    "RedisServer",
    "ScriptedWire",
    "ServerStartError",
    "Subject",
    "ValkeyServer",
    "check_arena_balance",
    "check_payload",
    "payload",
]

_MODULES: Final = {
    "conformance": ("Capabilities", "ConnectorConformance"),
    "servers.ceph": ("CephServer",),
    "servers.fault_proxy": ("FaultProxy",),
    "servers.faulty_s3": ("FaultyS3Server",),
    "loop_io": ("LoopIO",),
    "loop_watch": ("LoopWatch",),
    "scripted_wire": ("ScriptedWire",),
    "servers.s3": ("MotoServer", "RcloneServer"),
    "servers.tcp_faults": ("Direction", "Fault", "FaultKind"),
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
