"""`ServerState`: what a connector of several servers knows of one of them."""

from __future__ import annotations

from dataclasses import dataclass

from .breaker import BreakerState


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server of a store. `failures`: attempts in a row that it has not answered.

    `error` and `detail` are the class and the message of its last failure; "" where there was none. They hold no
    secret.
    """

    server: str
    """Its address, without credentials."""
    breaker: BreakerState
    failures: int = 0
    error: str = ""
    detail: str = ""
