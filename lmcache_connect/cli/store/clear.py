"""`lmcache-connect clear`: removes all keys with a prefix, after it has counted them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...contract import counting_left_out
from ...managed import ManagedConnector
from ..frame.opening import open_store
from .selection import Selection, keys_in, pages_of

if TYPE_CHECKING:
    from ...oversight import Clearing


@dataclass(frozen=True)
class Survey:
    """What stands under a prefix. `unknown` chunks have a size that the store does not tell."""

    store: str
    prefix: str
    chunks: int
    nbytes: int
    unknown: int
    left_out: int


@dataclass(frozen=True)
class ClearReport:
    """What was under the prefix, and what became of it; `cleared` is None where nothing was to be removed."""

    survey: Survey
    cleared: Clearing | None

    @property
    def ok(self) -> bool:
        """Whether nothing of it is left that was to be removed."""
        return self.cleared is None or (self.cleared.failed == 0 and self.cleared.error is None)


async def clear_prefix(
    url: str,
    prefix: str,
    confirm: Callable[[Survey], bool],
    on_progress: Callable[[str, int], None] = lambda _step, _done: None,
) -> ClearReport:
    """Counts the chunks whose keys begin with `prefix`, and removes them if `confirm` says so.

    What was written in between is removed as well. `on_progress` is told of each step and its keys.

    Raises:
        LMCacheConnectError: the store cannot be used, listed, or told to remove. Some may be removed.
    """
    from ...oversight import clear  # this needs the extra `api`, and no other command of the group does

    async with open_store(url) as connector:
        survey = await _survey(connector, prefix, lambda done: on_progress("counting", done))
        if not survey.chunks or not confirm(survey):
            return ClearReport(survey, None)
        cleared = await clear(connector, prefix, limit=sys.maxsize, on_page=lambda done: on_progress("removing", done))
    return ClearReport(survey, cleared)


async def _survey(connector: ManagedConnector, prefix: str, on_progress: Callable[[int], None]) -> Survey:
    chunks = nbytes = unknown = 0
    with counting_left_out() as left_out:
        async for page in pages_of(keys_in(connector, Selection(prefix))):
            for facts in await connector.describe(page):
                chunks += 1
                if facts is None or facts.stored_bytes is None:
                    unknown += 1
                else:
                    nbytes += facts.stored_bytes
            on_progress(len(page))
    return Survey(connector.context.remote_url.redacted(), prefix, chunks, nbytes, unknown, left_out.count)
