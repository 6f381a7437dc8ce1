"""LMCache's `LocalCPUBackend` on the arena."""

from __future__ import annotations

import threading
from typing import Any

from ...contract import ConnectorContext
from ...memory import MemoryObj
from ..backend_view import BackendView
from .memory import BufferView, TensorView, view_of

# ruff: isort: split
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend


class RealBackend(BackendView[TensorView | BufferView], LocalCPUBackend):  # type: ignore[misc]
    """An instance of LMCache's class whose memory is the arena, and whose hot cache is empty. Never waits."""

    def __init__(self, context: ConnectorContext, config: Any, metadata: Any) -> None:
        self._init_view(context, config, metadata)
        # What else LMCache's own __init__ sets and its connectors read.
        self.use_hot = False
        self.hot_cache: dict[Any, Any] = {}
        self.keys_in_request: list[Any] = []
        self.cpu_lock = threading.Lock()
        self.batched_msg_sender = None
        self.layerwise = bool(getattr(config, "use_layerwise", False))
        self.enable_blending = bool(getattr(config, "enable_blending", False))

    def view_of(self, original: MemoryObj, *, is_borrowed: bool) -> TensorView | BufferView:
        """LMCache's object for the memory of `original`. One that is not borrowed takes over a reference."""
        return view_of(original, is_borrowed=is_borrowed)

    def clear(self) -> int:
        """Does nothing and returns 0: the hot cache is empty."""
        return 0

    def close(self) -> None:
        """Does nothing: the arena belongs to the application."""
