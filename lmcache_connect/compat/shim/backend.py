"""`LocalCPUBackend` of LMCache, in its place."""

from __future__ import annotations

from typing import Any

from ...contract import ConnectorContext
from ...memory import MemoryObj
from ..backend_view import BackendView
from .memory import TensorMemoryObj


class LocalCPUBackend(BackendView[TensorMemoryObj]):
    """Memory for one guest. Everything that is not defined here is read from `original`."""

    def __init__(self, context: ConnectorContext, config: Any, metadata: Any) -> None:
        self._init_view(context, config, metadata)

    def view_of(self, original: MemoryObj, *, is_borrowed: bool) -> TensorMemoryObj:
        """A guest's object for the memory of `original`. One that is not borrowed takes over a reference."""
        return TensorMemoryObj(original, is_borrowed=is_borrowed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or (original := vars(self).get("original")) is None:
            raise AttributeError(f"the backend has no {name}")
        return getattr(original, name)

    def __str__(self) -> str:
        return "LocalCPUBackend"
