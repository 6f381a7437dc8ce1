"""Inside LMCache: its multi-process server loads `NativeClient` or `L2Adapter`, and its in-process mode loads `plugin`.

    {"type": "native_plugin", "module_path": "lmcache_connect.engines.lmcache", "class_name": "NativeClient",
     "adapter_params": {"url": "redis://store:6379?ttl=86400"}}

Importing this package imports neither LMCache nor torch. `L2Adapter` derives from a class of LMCache's, and is imported
on first use. Chunks lie in LMCache's own memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .native_client import NativeClient

if TYPE_CHECKING:
    from .l2_adapter import L2Adapter

__all__ = ["L2Adapter", "NativeClient"]


def __getattr__(name: str) -> Any:
    if name == "L2Adapter":
        return importlib.import_module(".l2_adapter", __name__).L2Adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
