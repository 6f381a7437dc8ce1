"""`lmcache-connect du`: what takes how much of a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ...contract import counting_left_out
from ..frame.opening import open_store
from .key_parts import OTHER, KeyParts, start_of
from .selection import Selection, keys_in, pages_of


class By(StrEnum):
    """What chunks are added up by. An enumeration, because the oldest typer that will do knows no `Literal`."""

    PREFIX = "prefix"
    MODEL = "model"
    TENANT = "tenant"


MOST_GROUPS: Final = 50_000
"""Groups that are held. Keys of further ones are counted together."""

REST: Final = "(further groups)"


@dataclass
class Group:
    """The chunks that belong together. `nbytes` are those that the store holds for them."""

    name: str
    chunks: int = 0
    nbytes: int = 0
    unknown: int = 0
    """Chunks whose size the store does not tell."""
    expiring: int = 0
    """Chunks that the store forgets at some time."""
    largest: str = ""
    largest_bytes: int = 0

    def add(self, key: str, nbytes: int | None, expires: bool) -> None:
        """Counts a chunk."""
        self.chunks += 1
        self.expiring += expires
        if nbytes is None:
            self.unknown += 1
            return
        self.nbytes += nbytes
        if nbytes > self.largest_bytes:
            self.largest, self.largest_bytes = key, nbytes


@dataclass(frozen=True)
class UsageReport:
    """What a store holds. `groups` begin with the largest. `store` is a redacted URL."""

    store: str
    by: By
    groups: tuple[Group, ...]
    total: Group
    left_out: int


async def measure_usage(
    url: str, selection: Selection, *, by: By, depth: int, on_progress: Callable[[int], None] = lambda _: None
) -> UsageReport:
    """Adds up the chunks of a selection, by what their keys begin with, or by the model or the tenant in them.

    `on_progress` is told how many more chunks were counted.

    Raises:
        LMCacheConnectError: the store cannot be used, or fails meanwhile.
    """
    groups: dict[str, Group] = {}
    total = Group("")
    with counting_left_out() as left_out:
        async with open_store(url) as connector:
            store = connector.context.remote_url.redacted()
            async for page in pages_of(keys_in(connector, selection)):
                for key, facts in zip(page, await connector.describe(page), strict=True):
                    if facts is None:
                        continue  # it has gone meanwhile
                    name = _name_of(key, by, depth)
                    if name not in groups and len(groups) >= MOST_GROUPS:
                        name = REST
                    group = groups.setdefault(name, Group(name))
                    expires = facts.ttl is not None and facts.ttl != float("inf")
                    for each in (group, total):
                        each.add(key, facts.stored_bytes, expires)
                on_progress(len(page))
    ordered = sorted(groups.values(), key=lambda group: (-group.nbytes, -group.chunks, group.name))
    return UsageReport(store, by, tuple(ordered), total, left_out.count)


def _name_of(key: str, by: By, depth: int) -> str:
    if by == "prefix":
        return start_of(key, depth)
    parts = KeyParts.of(key)
    return (parts.model if by == "model" else parts.tenant) or OTHER
