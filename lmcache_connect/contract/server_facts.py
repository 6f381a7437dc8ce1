"""`ServerFacts`: what a server of a store tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one server told when it was asked. Sizes are bytes. None: it does not tell that.

    Counters begin with the server's process, and count what all of its clients did.
    """

    run_id: str
    """Names the server's process. Another one at the same address has another one."""
    uptime: float
    """Seconds since it was started."""
    product: str = ""
    """The product and its release, such as `valkey 9.1.2`."""
    memory: int | None = None
    """What it uses."""
    memory_limit: int | None = None
    """What it may use; 0: as much as there is."""
    evicts: bool | None = None
    """Whether it makes room where the limit is reached. Otherwise it refuses puts."""
    expired: int | None = None
    """Keys that it has dropped because their time was over."""
    evicted: int | None = None
    """Keys that it has dropped to make room."""
    connections: int | None = None
    """Its clients now."""
    saves: bool | None = None
    """Whether its last write to its disk succeeded. Redis refuses puts while it does not."""
    is_replica: bool | None = None
    """Whether it copies another server."""

    @property
    def fill(self) -> float | None:
        """The share of its memory that is used, 0 to 1 or somewhat above; None where it has no limit."""
        if self.memory is None or not self.memory_limit:
            return None
        return self.memory / self.memory_limit
