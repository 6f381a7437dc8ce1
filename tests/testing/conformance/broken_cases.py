"""A rule, a connector that breaks it, and what the suite says to its author."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from lmcache_connect import RemoteConnector

T = TypeVar("T", bound=type[RemoteConnector])


@dataclass(frozen=True)
class Case:
    """`broken` is an author's object, or one that stands for the manager's. `says` is a part of what it is caught by.

    Where `ManagedConnector` repairs what an author's object does wrong, the rule asks `connector.wrapped` as well, and
    the broken one is caught there; these are marked "repaired". Where the manager's object itself gives the guarantee,
    so that no author could break it, the broken one is a `ManagedConnector`.
    """

    rule: str
    broken: type[RemoteConnector]
    says: str


class Cases(list[Case]):
    """Broken connectors, entered by a decorator."""

    def breaks(self, rule: Callable[..., Awaitable[None]], says: str) -> Callable[[T], T]:
        """Enters a class that breaks `rule`."""

        def enter(broken: T) -> T:
            self.append(Case(rule.__name__, broken, says))
            return broken

        return enter
