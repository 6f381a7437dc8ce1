"""Who owns the event loop, and how a call from another loop or thread reaches it.

The only package that knows about event loops and the threads that run them.
"""

from __future__ import annotations

from .owner import LoopOwner

__all__ = ["LoopOwner"]
