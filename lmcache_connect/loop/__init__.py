"""Who owns the event loop, how a call from another loop or thread reaches it, and how cancellation is noticed.

The only package that knows about event loops and the threads that run them.
"""

from __future__ import annotations

from .owner import LoopOwner

__all__ = ["LoopOwner"]
