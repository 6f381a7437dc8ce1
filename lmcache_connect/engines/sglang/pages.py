"""`Page`: one page that is to be moved between the store and the engine's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Page:
    """A page, for one call.

    Attributes:
        name: its name in the store.
        buffers: its memory: one buffer or several, in their order. None: nothing may be touched.
        owner: what keeps the memory, and so is held until the call has ended.
    """

    name: str
    buffers: Any
    owner: Any = None


NOWHERE = Page("", None)
"""A page that is not moved: the answer is False."""
