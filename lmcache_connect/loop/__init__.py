"""Who owns the event loop, and how a call from another loop or thread reaches it.

The only package that starts an event loop or calls across loops. Imported by `contract`, `foreign`, `managed`,
`manager`, `engines` and `internal_api_server`.
"""

from __future__ import annotations

from .mailbox import call_soon, mailbox_of
from .owner import LoopOwner

__all__ = ["LoopOwner", "call_soon", "mailbox_of"]
