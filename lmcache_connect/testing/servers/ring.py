"""`RingServers`: several plain servers, over which a client spreads its keys by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .process import NotReadyError, ServerProcess
from .redis import StoreServer, TLSServer, ValkeyServer
from .server_group import ServerGroup, ask, side_by_side


class RingServers(ServerGroup):
    """Servers that know nothing of each other.

    Args:
        kind: the class of the servers: Valkey, or a Redis.
        password: for the default user of every server; None: no password.
        tls: whether the servers speak TLS.
        config: further settings of every server, by name.
        count: how many servers.
    """

    product = "ring"
    schemes = ("redis-ring", "valkey-ring", "rediss-ring", "valkeys-ring")

    def __init__(
        self,
        kind: type[ValkeyServer] | type[TLSServer] = ValkeyServer,
        *,
        count: int = 3,
        password: str | None = None,
        tls: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(kind, password=password, tls=tls, config=config)
        self._servers = [self._new_server({}) for _ in range(count)]

    @property
    def servers(self) -> tuple[StoreServer, ...]:
        return tuple(self._servers)

    def url(self, scheme: str = "redis-ring", *, options: Mapping[str, str] | None = None) -> str:
        """The ring's URL, which names every server, with the password and the options percent-encoded.

        Args:
            scheme: `redis-ring` or `valkey-ring`; `rediss-ring` or `valkeys-ring` for TLS.
            options: appended as the query.

        Raises:
            InvalidArgumentError: an unknown scheme, or TLS of a ring made without it.
            ServerNotRunningError: the ring was never started.
        """
        return self._url(scheme, self._servers, options)

    def add_server(self) -> StoreServer:
        """Starts another server, which `url()` names last from now on."""
        server = self._new_server({})
        server.start()
        self._servers.append(server)
        return server

    # ------------------------------------------------------------------------------------------------ machinery

    def _start(self) -> None:
        side_by_side(ServerProcess.start, self._servers)

    def _check(self, expected: Collection[ServerProcess]) -> None:
        for server in self._servers:
            if server in expected and ask(server, "PING") not in {True, b"PONG"}:
                raise NotReadyError(f"the server at port {server.port} does not answer")
