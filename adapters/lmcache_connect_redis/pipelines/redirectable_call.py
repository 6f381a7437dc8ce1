"""`RedirectableCall`: a call some of whose requests may be answered by the name of another node."""

from __future__ import annotations

import threading
from typing import Final

from lmcache_connect.streaming import CombinedCall

from ..protocol.redirects import RedirectedError, RedirectionsError

_NOTING: Final = threading.Lock()
"""Held where a redirect is noted, which is rare, and which several threads may do for one call."""


class RedirectableCall(CombinedCall):
    """The requests of one call to one node of a cluster, or to any other server.

    A request that the node has not run, because another one has the slot of its key, ends nothing: the others go on.
    When all is answered, the call has failed with a `RedirectionsError`, which names what was not served.

    Attributes:
        is_asking: whether each request is to be served also by a node that only is about to get the slot.
    """

    __slots__ = ("is_asking",)

    def __init__(self, nbytes: int = 0) -> None:
        super().__init__(nbytes)
        self.is_asking = False

    def note_redirect(self, slot: int, error: RedirectedError) -> None:
        """Told that what belongs to the key at position `slot` was not run, and why. From any thread."""
        error = error.with_traceback(None)  # whose frames may hold views of buffers
        with _NOTING:
            if isinstance(self.failure, RedirectionsError):
                self.failure.by_slot.setdefault(slot, error)
            elif not self.is_ended:
                self.failure = RedirectionsError(error.store, {slot: error})
