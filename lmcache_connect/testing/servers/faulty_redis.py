"""`FaultyRedisProxy`: stands in front of a Redis or Valkey server, and spoils the replies that a test names.

    with ValkeyServer() as server, FaultyRedisProxy(server.host, server.port) as proxy:
        proxy.plan("GET", redis_faults.ErrorReply("LOADING loading the dataset in memory"))
        ...  # something that is given f"redis://127.0.0.1:{proxy.port}"

It reads commands and replies one by one, in threads of this process. So it is for single calls and for what they do,
and not for measurements. What is published or invalidated (RESP3's pushes) is not passed on.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import BinaryIO, Final, Self

from .redis_faults import ReplyFault

_SECONDS: Final = 60.0
"""How long a server may take for a reply."""

_LINES: Final = b"+-:_#,("
_STRINGS: Final = b"$=!"
_LISTS: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}


class FaultyRedisProxy:
    """A sync context manager. Every method may be called from any thread.

    Args:
        host: of the server that answers what is not planned.
        port: its plain port.
        context: what TLS is spoken to the clients with; None: none. It speaks none to the server.
        path: of a unix socket to listen on; None: a free TCP port. `port` is 0 then.
    """

    host: Final = "127.0.0.1"

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext | None = None, path: str | None = None) -> None:
        self.otherwise = ReplyFault()
        """What happens to commands that nothing is planned for; at first nothing."""
        self._upstream = (host, port)
        self._context = context
        self._plans: dict[str, list[ReplyFault]] = {}
        self._always: dict[str, ReplyFault] = {}
        self._commands: list[tuple[str, bytes]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        if path is None:
            self._listener = socket.create_server((self.host, 0), backlog=128)
        else:
            self._listener = socket.create_server(path, family=socket.AF_UNIX, backlog=128)
        self.port: int = self._listener.getsockname()[1] if path is None else 0
        """Where clients connect."""

    def plan(self, command: str, fault: ReplyFault, times: int | None = 1) -> None:
        """Plans a fault for the next `times` commands of this name, such as `"GET"`. None: for all from now on."""
        name = command.upper()
        with self._lock:
            if times is None:
                self._always[name] = fault
            else:
                self._plans.setdefault(name, []).extend([fault] * times)

    def clear(self) -> None:
        """Forgets every plan. A fault that has fired already goes on."""
        with self._lock:
            self._plans.clear()
            self._always.clear()

    def drop_all(self) -> None:
        """Ends every connection."""
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def asked(self, command: str) -> list[bytes]:
        """The first argument of each command of this name, in order; b"" where it had none."""
        with self._lock:
            return [argument for name, argument in self._commands if name == command.upper()]

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every connection, and its threads. Idempotent."""
        if self._stop.is_set():
            return
        self._stop.set()
        # Shutting the listener down wakes the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()
        for thread in self._threads:
            thread.join(5)

    # --------------------------------------------------------------------------------------------- connections

    def _begin(self, what: object, *args: object) -> None:
        thread = threading.Thread(target=what, args=args, name="faulty redis", daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._begin(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._context is not None:
                client.settimeout(_SECONDS)
                client = self._context.wrap_socket(client, server_side=True)
                client.settimeout(None)
            with client, socket.create_connection(self._upstream, timeout=_SECONDS) as server:
                with self._lock:
                    self._socks |= {client, server}
                if not self._stop.is_set():
                    self._exchange(client, server)
        except (OSError, EOFError, ValueError):
            client.close()
        finally:
            with self._lock:
                self._socks = {sock for sock in self._socks if sock.fileno() >= 0}

    def _exchange(self, client: socket.socket, server: socket.socket) -> None:
        for end in (client, server):
            if end.family != socket.AF_UNIX:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client.makefile("rb") as commands, server.makefile("rb") as replies:
            while not self._stop.is_set():
                raw, words = _command(commands)

                def ask(raw: bytes = raw) -> bytes:
                    server.sendall(raw)
                    return _reply(replies)

                if not self._fault_for(words).serve(ask, client, self._stop):
                    return

    def _fault_for(self, words: list[bytes]) -> ReplyFault:
        name = words[0].decode("ascii", "replace").upper()
        with self._lock:
            self._commands.append((name, words[1] if len(words) > 1 else b""))
            waiting = self._plans.get(name)
            return waiting.pop(0) if waiting else self._always.get(name, self.otherwise)


def _command(stream: BinaryIO) -> tuple[bytes, list[bytes]]:
    """A command as it was sent, and its first two words."""
    line = _line(stream)
    if not line.startswith(b"*"):
        raise ValueError(f"{line[:20]!r}; expected a list of strings")
    parts = [line]
    words: list[bytes] = []
    for _ in range(int(line[1:])):
        head = _line(stream)
        body = _exactly(stream, int(head[1:]) + 2)
        parts += (head, body)
        if len(words) < 2:
            words.append(body[:-2])
    return b"".join(parts), words


def _reply(stream: BinaryIO) -> bytes:
    """One whole reply as it was sent."""
    parts: list[bytes] = []
    missing = 1
    while missing:
        line = _line(stream)
        kind = line[0]
        parts.append(line)
        missing -= 1
        if kind in _LISTS:
            count = max(0, int(line[1:])) * _LISTS[kind]
            missing += count + (kind == ord("|"))  # attributes stand before what they belong to
        elif kind in _STRINGS:
            if (nbytes := int(line[1:])) >= 0:
                parts.append(_exactly(stream, nbytes + 2))
        elif kind not in _LINES:
            raise ValueError(f"{line[:20]!r}; expected a reply of RESP2 or RESP3")
    return b"".join(parts)


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline(64 << 10)
    if not line.endswith(b"\r\n"):
        raise EOFError("the connection has ended")
    return line


def _exactly(stream: BinaryIO, nbytes: int) -> bytes:
    found = stream.read(nbytes)
    if len(found) < nbytes:
        raise EOFError("the connection has ended")
    return found
