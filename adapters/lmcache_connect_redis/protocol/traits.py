"""`ServerTraits`: what the server behind a connection is and can do, as it said when the connection was set up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a server is among those that hold the same data."""

    PRIMARY = "primary"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class ServerTraits:
    """What a server, or a proxy in front of it, is and can do. Never changes: another connection may have others."""

    has_transactions: bool = True
    """Whether hashes can be filled, renamed and given an expiry inside MULTI and EXEC. Some proxies know neither."""

    has_unlink: bool = True
    """Whether removed memory is freed in the background. Otherwise DEL is used, which every server knows."""

    knows_little: bool = False
    """Whether it closes the connection over commands that it lacks, as some proxies do. It is asked GET, SET, EXISTS
    and DEL, unless a call needs more."""

    role: Role | None = None
    """What the server was then. None: it does not tell, or does not let this user ask."""

    refused: tuple[str, ...] = ()
    """The niceties that this user goes without."""


FULL_SERVER = ServerTraits()
"""The traits of a server that can do everything."""
