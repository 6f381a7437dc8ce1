"""`Demands`: what a connector asks of a server, as its URL's options say."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import RedisOptions


@dataclass(frozen=True, slots=True)
class Demands:
    """What a URL's options ask of each of its servers.

    Attributes:
        prefix: what every name begins with, with its colon; "" for none.
        whole_bytes: the longest value that is sent or received in one piece, in bytes.
        ttl: seconds after which chunks expire. None: never.
        stripe: bytes of the pieces of large chunks; 0: all are stored whole.
        connections: how many of them the connector opens at most.
        selects: the number of the database where that is not 0.
        is_ring: the server is one of a ring, which needs a command more.
    """

    prefix: str = ""
    whole_bytes: int = 4 << 20
    ttl: float | None = None
    stripe: int = 1 << 20
    connections: int = 7
    selects: int = 0
    is_ring: bool = False

    @classmethod
    def of(cls, options: RedisOptions, database: int = 0, *, is_ring: bool = False) -> Demands:
        """Returns what the options ask for."""
        in_pieces = options.stripe > 0 and options.layout == "connect"
        return cls(
            f"{options.prefix}:" if options.prefix else "",
            4 * options.stripe if in_pieces else options.max_value_bytes,
            options.ttl,
            options.stripe if in_pieces else 0,
            3 * options.pool_size + 1,
            database,
            is_ring,
        )
