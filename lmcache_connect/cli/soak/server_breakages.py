"""What happens to servers that the command has started: they are killed, stopped, restarted and failed over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...testing import ClusterServers, GroupNotHealthyError, RingServers, SentinelServers
from .breakage import Breakage, ServerBreakage
from .history import History

_SLOTS: Final = 16_384
_TAKEOVER_SECONDS: Final = 60.0
"""Seconds that servers have to agree on another primary, and later to be one healthy group."""

_POLL: Final = 0.02


class Killed(ServerBreakage):
    """A server is killed with SIGKILL. It is started again at its address, and holds nothing."""

    kind = "kill -9"
    loses = True

    def __init__(self, servers: Sequence[Any], rng: random.Random) -> None:
        self._servers = tuple(servers)
        self._rng = rng
        self._server: Any = None

    def _break(self, history: History) -> None:
        history.loses()
        self._server = self._rng.choice(self._servers)
        self._server.kill()

    def _mend(self, history: History) -> None:
        self._server.restart()


class Restarted(Killed):
    """A server ends in order and is started again at once."""

    kind = "restart"
    longest = 0.0

    def _break(self, history: History) -> None:
        history.loses()
        self._server = self._rng.choice(self._servers)


class Stopped(ServerBreakage):
    """A server is stopped with SIGSTOP, and goes on later. `choose` names it."""

    kind = "SIGSTOP"

    def __init__(self, choose: Callable[[], Any], longest: float = 4.0, *, reverts: bool = False) -> None:
        """`reverts`: whether a replica may take over meanwhile."""
        self._choose = choose
        self.longest = longest
        self._reverts = reverts
        self._server: Any = None

    def _break(self, history: History) -> None:
        if self._reverts:
            history.goes_back()
        self._server = self._choose()
        self._server.pause()

    def _mend(self, history: History) -> None:
        self._server.resume()


class _Takeover(ServerBreakage):
    """Base of what makes a replica take the place of a primary. It ends when the new primary takes writes.

    When that is, the servers decide. That every other replica follows the new one takes longer, and is waited for in
    `tidy`: the store can be used meanwhile.
    """

    longest = 0.0

    def __init__(self, group: SentinelServers | ClusterServers, rng: random.Random) -> None:
        self._group = group
        self._rng = rng
        self._before: Any = None
        self._slot = 0

    def _break(self, history: History) -> None:
        history.goes_back()
        group = self._group
        if isinstance(group, SentinelServers):
            self._before = group.primary()
        else:
            self._slot = self._rng.randrange(_SLOTS)
            self._before = group.owner_of(self._slot)
        self._take_away()

    def _take_away(self) -> None:
        raise NotImplementedError

    def _mend(self, history: History) -> None:
        deadline = time.monotonic() + _TAKEOVER_SECONDS
        while not self._has_taken_over():
            if time.monotonic() > deadline:
                raise GroupNotHealthyError(
                    self._group.product, _TAKEOVER_SECONDS, f"no replica has taken over from port {self._before.port}"
                )
            time.sleep(_POLL)

    def _has_taken_over(self) -> bool:
        group = self._group
        try:
            now = group.primary() if isinstance(group, SentinelServers) else group.owner_of(self._slot)
            if now is self._before or not now.running:
                return False
            with now.client() as client:
                return bool(client.info("replication")["role"] == "master")
        except Exception:  # a server that is about to change its role may refuse to answer
            return False

    def _tidy(self, history: History) -> None:
        if not self._before.running:
            self._group.restart(self._before)
        self._group.wait_until_healthy(timeout=_TAKEOVER_SECONDS)


class PrimaryKilled(_Takeover):
    """A primary is killed with SIGKILL, and a replica takes over. The killed one comes back later, as a replica."""

    kind = "failover after kill -9"

    def _take_away(self) -> None:
        self._group.kill(self._before)


class FailedOver(_Takeover):
    """A replica takes the place of a primary that runs, as an operator would have it."""

    kind = "failover by command"

    def _take_away(self) -> None:
        group = self._group
        if isinstance(group, SentinelServers):
            sentinel = next(one for one in group.sentinels if one.running)
            with sentinel.client() as client:
                client.execute_command("SENTINEL", "FAILOVER", group.service)
        else:
            with self._rng.choice(group.replicas(self._before)).client() as client:
                client.execute_command("CLUSTER", "FAILOVER")


def single_breakages(servers: Sequence[Any], rng: random.Random) -> list[Breakage]:
    """Of servers of which each stands alone: one, or those of a ring."""
    return [Killed(servers, rng), Stopped(lambda: rng.choice(tuple(servers))), Restarted(servers, rng)]


def group_breakages(group: SentinelServers | ClusterServers | RingServers, rng: random.Random) -> list[Breakage]:
    """Of servers that stand together."""
    if isinstance(group, RingServers):
        return single_breakages(group.servers, rng)
    choose: Callable[[], Any] = (
        group.primary if isinstance(group, SentinelServers) else lambda: rng.choice(group.primaries())
    )
    return [
        PrimaryKilled(group, rng),
        # Shorter than the silence after which another takes over.
        Stopped(choose, longest=0.7, reverts=True),
        FailedOver(group, rng),
    ]
