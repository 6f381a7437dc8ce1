"""`Serving`: what `serve` says once it listens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServedStore:
    """One connector, its store's address without credentials, and how a first ping went: `ok`, `failing`, ..."""

    connector: str
    store: str
    health: str


@dataclass(frozen=True)
class Serving:
    """What listens where."""

    address: str
    metrics_address: str | None
    stores: tuple[ServedStore, ...]
