"""`ServerTraits`: what the server behind a connection can do, as far as it was asked when the connection was set up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerTraits:
    """What a server, or a proxy in front of it, can do. Never changes: another connection may have other traits."""

    has_transactions: bool = True
    """Whether hashes can be filled, renamed and given an expiry inside MULTI and EXEC. Some proxies know neither."""


FULL_SERVER = ServerTraits()
"""The traits of a server that can do everything."""
