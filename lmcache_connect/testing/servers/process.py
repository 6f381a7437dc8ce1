"""`ServerProcess`: a server as a subprocess of the tests, on a free port of 127.0.0.1, with a directory of its own."""

from __future__ import annotations

import atexit
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
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from ...errors import LMCacheConnectError, MissingExtraError

T = TypeVar("T")

START_DEADLINE: Final = 10.0
"""Seconds that a server has, over all tries, until it answers."""

STOP_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL."""

_PORT_TRIES: Final = 3
_POLL_INTERVAL: Final = 0.01
_LOG_LINES: Final = 20
_PATH_LIMIT: Final = 100  # of a unix socket: sockaddr_un holds 104 bytes on macOS and 108 on Linux
# Below every ephemeral range, so that no outgoing connection takes the port between choosing and binding. Well below
# 55535, above which a Redis server that adds 10000 for its cluster bus refuses to start.
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


class NotReadyError(Exception):
    """A server does not answer yet."""


def unused_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, between 20000 and 31999.

    It is not reserved: another process may take it first. The caller must be ready to ask again.

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


class Process(Protocol):
    """What runs a server: a `subprocess.Popen`, or something that acts as one."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def send_signal(self, sig: int, /) -> None: ...


def new_certificates(feature: str) -> tuple[bytes, bytes]:
    """A new CA's certificate, and one that it issued for 127.0.0.1 and localhost, with its key and chain. Both in PEM.

    Raises:
        MissingExtraError: trustme is not installed, which `feature` needs.
    """
    try:
        import trustme
    except ImportError as missing:
        raise MissingExtraError(feature, "trustme", "testing") from missing
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    return authority.cert_pem.bytes(), leaf.private_key_and_cert_chain_pem.bytes()


class ServerProcess:
    """Base of the servers. A sync context manager; `start()` and `stop()` do the same by hand.

    Ports, paths and certificates are chosen by the first `start()` and stay the same for the life of the object. So a
    client can watch a server go and come back. Not thread-safe: one thread drives a server, any number may talk to it.
    A server outlives its Python process only if a signal ends that process without cleaning up.
    """

    product = "server"
    """What errors call a server that has not told its name yet."""

    start_deadline = START_DEADLINE
    """Seconds that it has, over all tries, until it answers."""

    host = "127.0.0.1"
    name: str
    """Product and version as the server tells them, such as `"valkey 9.1.2"`; until then the product."""

    def __init__(self) -> None:
        self.name = self.product
        self._port: int | None = None
        self._directory: Path | None = None
        self._process: Process | None = None
        self._owner = os.getpid()
        self._certificates: tuple[bytes, bytes] | None = None  # PEM: the authority's; the server's with its key

    @property
    def port(self) -> int:
        """The plain TCP port. Kept while the server is down.

        Raises:
            ServerNotRunningError: the server was never started.
        """
        return self._known(self._port, "port")

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ServerNotRunningError: there is no process now.
        """
        return self._running("pid").pid

    @property
    def running(self) -> bool:
        """Whether there is a process. A paused one counts."""
        return self._process is not None and self._process.poll() is None

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
        """Starts the server and waits until it answers. Does nothing if it is running.

        Where another process takes the port between choosing and binding, another port is tried, three times in all.
        On a later start the same port is tried three times.

        Raises:
            ServerStartError: it exited, or gave no answer within `start_deadline`; nothing is left behind.
            MissingExtraError: a Python package that it needs is not installed.
            FileNotFoundError: its executable is not on this machine.
        """
        if self.running:
            return
        self._owner = os.getpid()
        first = self._port is None
        try:
            self._start(choose_ports=first)
        except BaseException:
            self.stop()
            if first:
                self._port = self._directory = None
            raise

    def stop(self) -> None:
        """Stops the server, paused or not, and removes its files. Idempotent; takes at most about two seconds.

        A process forked from the one that started the server leaves it alone.
        """
        if self._owner != os.getpid():
            return
        self._end()
        atexit.unregister(self.stop)
        self._remove_files()

    def kill(self) -> None:
        """Ends the process with SIGKILL, as a crash would. Its files stay until `stop()`, for `restart()` to find.

        Does nothing if there is no process.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stops the server if it runs, and starts it again on the same ports and paths.

        Raises:
            ServerStartError: it did not come back.
        """
        self._end()
        self.start()

    def pause(self) -> None:
        """Freezes the process (SIGSTOP), and returns once it is frozen.

        The kernel goes on accepting connections and data for it. Nothing is answered.

        Raises:
            ServerNotRunningError: there is no process.
        """
        process = self._running("pause")
        process.send_signal(signal.SIGSTOP)
        if isinstance(process, subprocess.Popen) and sys.platform != "darwin":  # which has no waitid
            # WEXITED with WNOWAIT: a process that died instead ends the wait and stays Popen's to reap.
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Lets a paused process run again (SIGCONT). What it received in the meantime is answered.

        Raises:
            ServerNotRunningError: there is no process.
        """
        self._running("resume").send_signal(signal.SIGCONT)

    # ------------------------------------------------------------------------------------ for the subclasses

    def _choose_ports(self) -> None:
        self._port = unused_port()

    def _command(self, directory: Path) -> list[str]:
        """The command line. Writes what the server reads into `directory`."""
        raise NotImplementedError(f"{type(self).__name__} has no _command()")

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _probe(self) -> None:
        """Asks the server for an answer. Raises `NotReadyError` where it gives none."""
        raise NotImplementedError(f"{type(self).__name__} has no _probe()")

    def _write_certificates(self, directory: Path) -> None:
        """Writes `ca.pem`, and `server.pem` for 127.0.0.1 and localhost, with its key. Needs trustme."""
        # Made once: a client that trusts the authority goes on trusting it after a restart.
        if self._certificates is None:
            self._certificates = new_certificates(type(self).__name__)
        authority_pem, server_pem = self._certificates
        (directory / "ca.pem").write_bytes(authority_pem)
        (directory / "server.pem").write_bytes(server_pem)

    def _remove_files(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _known(self, value: T | None, operation: str) -> T:
        if value is None:
            raise ServerNotRunningError(self.name, operation)
        return value

    def _running(self, operation: str) -> Process:
        process = self._process
        if process is None or process.poll() is not None:
            raise ServerNotRunningError(self.name, operation)
        return process

    # -------------------------------------------------------------------------------------------- machinery

    def _start(self, *, choose_ports: bool) -> None:
        deadline = time.monotonic() + self.start_deadline
        for tries_left in reversed(range(_PORT_TRIES)):
            if choose_ports:
                self._choose_ports()
            self._launch()
            try:
                self._await_ready(deadline)
                return
            except ServerStartError as error:
                is_taken = "already in use" in error.log.casefold()
                if not tries_left or not is_taken or time.monotonic() >= deadline:
                    raise
            self._end()
            if not choose_ports:
                time.sleep(0.1)

    def _launch(self) -> None:
        directory = self._make_directory()
        command = self._command(directory)
        self._command_name = command[0]
        atexit.unregister(self.stop)
        atexit.register(self.stop)
        self._process = self._spawn(command, directory)

    def _spawn(self, command: list[str], directory: Path) -> Process:
        with (directory / "log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own process group: Ctrl-C reaches the tests alone, and they stop the server.
                process_group=0,
            )

    def _make_directory(self) -> Path:
        if self._directory is None:
            parent = tempfile.gettempdir()
            if len(parent) + len("/lmcc-12345678/s") >= _PATH_LIMIT:
                parent = "/tmp"  # noqa: S108  # the directory in it is made by mkdtemp
            self._directory = Path(tempfile.mkdtemp(prefix="lmcc-", dir=parent))
        elif not self._directory.exists():
            self._directory.mkdir(mode=0o700)
        return self._directory

    def _await_ready(self, deadline: float) -> None:
        process = self._process
        assert process is not None
        what = f"{self.product} ({self._command_name})"
        while True:
            try:
                self._probe()
                return
            except NotReadyError as error:
                last = error
            if (code := process.poll()) is not None:
                raise ServerStartError(what, f"it exited with status {code}", self.log_tail())
            if time.monotonic() >= deadline:
                reason = f"it did not answer within {self.start_deadline:g} s ({last})"
                raise ServerStartError(what, reason, self.log_tail())
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
