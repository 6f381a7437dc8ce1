"""Inside vLLM: `Tier`, a secondary tier of its `TieringOffloadingSpec`. Chunks lie in vLLM's own memory.

    "secondary_tiers": [{"type": "Tier", "module_path": "lmcache_connect.engines.vllm", "url": "redis://store:6379"}]

vLLM is imported when `Tier` is first asked for, and not with this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tier import Tier as Tier


def __getattr__(name: str) -> Any:
    if name == "Tier":
        from .tier import Tier

        return Tier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
