"""Where other people's code runs: in threads and tasks that can be left behind, counted and bounded.

The code of a plug-in, of a connector that the application registered, or of a driver's credential process may block,
swallow its cancellation, or raise `SystemExit`. A `Lane` runs the code of one such party. A caller whose time is up
leaves its call behind, and the call ends when it ends. Nothing that was left behind keeps the process alive.

Imported by `compat`, `contract`, `engines`, `foreign`, `managed`, `manager`, `internal_api_server`,
`lmcache_connect_redis` and `lmcache_connect_s3`.
"""

from __future__ import annotations

from .call import OutsideCall
from .causes import hidden_causes, hide_causes
from .copying import private_copy, private_copy_of
from .lane import Lane, LateError
from .raised import contained, described, own_copy
from .shared_question import SharedQuestion

__all__ = [
    "Lane",
    "LateError",
    "OutsideCall",
    "SharedQuestion",
    "contained",
    "described",
    "hidden_causes",
    "hide_causes",
    "own_copy",
    "private_copy",
    "private_copy_of",
]
