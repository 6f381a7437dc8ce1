"""`FaultProxy`: a TCP proxy that breaks connections at an exact byte, to test how a client reacts.

    with ValkeyServer() as server, FaultProxy(server.host, server.port) as proxy:
        proxy.arm(Fault(FaultKind.RESET, after_bytes=1000, count=1))
        ...  # the first connection to receive 1000 bytes is reset, the next one works

The proxy runs in a thread of its own, so any test can use it, synchronous or on an event loop. While no fault is armed
it loses, changes and reorders nothing, keeps half-closed connections half-closed, and passes back-pressure on: it
holds a bounded number of bytes for each direction of a connection.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .proxy_connection import Counts
from .proxy_engine import ANSWER_DEADLINE, Engine, ProxyNotRunningError
from .tcp_faults import Fault

_BACKLOG: Final = 1024


class FaultProxy:
    """Forwards TCP connections from a port of its own to `upstream_host`:`upstream_port`, until a fault is armed.

    With `path` it listens on a unix socket there, and on no port. Its clients then see an end where others see a reset.

    A sync context manager; `start()` and `stop()` do the same by hand, from one thread. A proxy that is started again
    listens on the same port. The other methods may be called from any thread, also from that of an event loop. Those
    that change something return once the change holds for every byte that is not forwarded yet, normally well within a
    millisecond. Where no connection to the server can be made, the client gets a reset.
    """

    host: Final = "127.0.0.1"
    """Where the proxy listens."""

    def __init__(self, upstream_host: str, upstream_port: int, *, path: str | None = None) -> None:
        self.path = path
        self.upstream_host = upstream_host
        self.upstream_port = upstream_port
        self._port = 0
        self._counts = Counts()
        self._fired = threading.Event()
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that clients connect to. Kept while the proxy is stopped.

        Raises:
            ProxyNotRunningError: the proxy was never started, or listens on a unix socket.
        """
        if not self._port:
            raise ProxyNotRunningError("port")
        return self._port

    @property
    def connections(self) -> int:
        """Connections accepted so far, the refused ones included."""
        return self._counts.connections

    @property
    def bytes_to_server(self) -> int:
        """Bytes handed to the server's sockets so far, over all connections."""
        return self._counts.bytes_to_server

    @property
    def bytes_to_client(self) -> int:
        """Bytes handed to the clients' sockets so far, over all connections."""
        return self._counts.bytes_to_client

    @property
    def fired(self) -> int:
        """How often the fault armed last has fired."""
        return self._counts.fired

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listens, and forwards from now on. Does nothing if the proxy is running.

        Raises:
            OSError: the upstream host has no address, or another process took the port while the proxy was stopped.
        """
        if self._engine is not None:
            return
        upstream = socket.getaddrinfo(self.upstream_host, self.upstream_port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(socket.AF_INET if self.path is None else socket.AF_UNIX)
        try:
            if self.path is None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((self.host, self._port))
            else:
                Path(self.path).unlink(missing_ok=True)  # the one of the start before
                listener.bind(self.path)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        if self.path is None:
            self._port = listener.getsockname()[1]
        self._engine = Engine(listener, upstream[0], upstream[4], self._counts, self._fired)
        # A daemon, so that a test that forgets to stop it does not keep the interpreter from ending.
        name = f"fault-proxy-{self.path or self._port}"
        self._thread = threading.Thread(target=self._engine.run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes the listener and every connection, and ends the thread. Idempotent.

        Raises:
            TimeoutError: the thread did not end within five seconds, which is a bug of the proxy.
        """
        engine, thread = self._engine, self._thread
        self._engine = self._thread = None
        if engine is None or thread is None:
            return
        try:
            engine.call("stop", engine.stop)
        except ProxyNotRunningError:
            pass  # its thread died of an error that was reported there
        thread.join(ANSWER_DEADLINE)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} did not end within {ANSWER_DEADLINE:g} s, expected at once")

    def arm(self, fault: Fault) -> None:
        """Arms `fault`. One that was armed before ends as with `disarm()`. `fired` starts at 0 again.

        Raises:
            ProxyNotRunningError: the proxy is not running.
        """
        engine = self._running("arm")
        engine.call("arm", lambda: engine.arm(fault))

    def disarm(self, *, drop: bool = False) -> None:
        """Forwards everything again: what was stalled or delayed is sent at once. What was swallowed, truncated or
        closed stays so. `fired` keeps its value. Does nothing if no fault is armed.

        Args:
            drop: closes every connection as well, in the same step. So no server reads the rest of a stream in which
                bytes are missing.

        Raises:
            ProxyNotRunningError: the proxy is not running.
        """
        engine = self._running("disarm")
        engine.call("disarm", engine.drop_and_disarm if drop else engine.disarm)

    def drop_all(self) -> None:
        """Closes every connection, also those that wait to be accepted. Both peers see an orderly end, or a reset if
        the proxy had not read all they sent.

        Raises:
            ProxyNotRunningError: the proxy is not running.
        """
        engine = self._running("drop_all")
        engine.call("drop_all", engine.drop_all)

    def wait_fired(self, timeout: float) -> bool:
        """Waits until the fault armed last has fired, `timeout` seconds at most. Returns whether it has.

        It blocks its thread. On an event loop, await `asyncio.to_thread(proxy.wait_fired, timeout)`.
        """
        return self._fired.wait(timeout)

    def _running(self, operation: str) -> Engine:
        if self._engine is None:
            raise ProxyNotRunningError(operation)
        return self._engine
