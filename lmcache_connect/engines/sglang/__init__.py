"""Inside SGLang: `HiCacheBackend`, a storage backend of HiCache. Pages lie in the memory of HiCache's host pools.

    --hicache-storage-backend dynamic --hicache-storage-backend-extra-config '{"backend_name": "connect",
      "module_path": "lmcache_connect.engines.sglang", "class_name": "HiCacheBackend", "interface_v1": 1,
      "url": "redis://store:6379"}'

SGLang is imported when `HiCacheBackend` is first asked for, and not with this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import HiCacheBackend as HiCacheBackend


def __getattr__(name: str) -> Any:
    if name == "HiCacheBackend":
        from .backend import HiCacheBackend

        return HiCacheBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
