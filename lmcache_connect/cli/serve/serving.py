"""`Serving`: what `lmcache-connect serve` reports when it listens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServedStore:
    """A connector, its store's address without credentials, and the health after a first ping: `ok`, `failing`, ..."""

    connector: str
    store: str
    health: str


@dataclass(frozen=True)
class Serving:
    """The addresses of the server, and its stores."""

    address: str
    metrics_address: str | None
    stores: tuple[ServedStore, ...]
