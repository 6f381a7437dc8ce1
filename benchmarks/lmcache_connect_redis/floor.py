"""The kernel's limit: bare `recv_into` and `sendmsg` against a server that sends zeros and discards data."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_REQUEST: Final = struct.Struct("<cQ")
"""A request: `g` or `p`, and a number of bytes, which the server sends or discards. Then it answers `.`."""

_BLOCK: Final = 1 << 20
_START_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Moved:
    """One transfer."""

    nbytes: int
    wall: float
    cpu: float


class FloorClient:
    """One blocking socket, without a protocol, an event loop or a checksum."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def get(self, chunks: list[memoryview]) -> Moved:
        """Receives into every chunk in turn."""
        nbytes = sum(len(chunk) for chunk in chunks)
        self._sock.sendall(_REQUEST.pack(b"g", nbytes))
        wall, cpu = time.perf_counter(), time.process_time()
        receive = self._sock.recv_into
        for chunk in chunks:
            position, size = 0, len(chunk)
            while position < size:
                count = receive(chunk[position:])
                if not count:
                    raise ConnectionError("the floor server closed the connection")
                position += count
        return Moved(nbytes, time.perf_counter() - wall, time.process_time() - cpu)

    def put(self, chunks: list[memoryview]) -> Moved:
        """Sends every chunk in turn, and waits until the server has it all."""
        nbytes = sum(len(chunk) for chunk in chunks)
        self._sock.sendall(_REQUEST.pack(b"p", nbytes))
        wall, cpu = time.perf_counter(), time.process_time()
        for chunk in chunks:
            position, size = 0, len(chunk)
            while position < size:
                position += self._sock.sendmsg((chunk[position:],))
        if self._sock.recv(1) != b".":
            raise ConnectionError("the floor server closed the connection")
        return Moved(nbytes, time.perf_counter() - wall, time.process_time() - cpu)


@contextmanager
def floor_server(unix_path: Path | None = None) -> Iterator[FloorClient]:
    """A connection to a server in a process of its own, over TCP on loopback, or over a unix socket."""
    family = socket.AF_INET if unix_path is None else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0) if unix_path is None else str(unix_path))
        listener.listen(1)
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.lmcache_connect_redis.floor", str(listener.fileno()), str(int(family))],
            pass_fds=[listener.fileno()],
        )
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(_START_SECONDS)
                sock.connect(listener.getsockname())
                sock.settimeout(None)
                yield FloorClient(sock)
        finally:
            process.kill()
            process.wait()
            if unix_path is not None:
                unix_path.unlink(missing_ok=True)


def serve(listener: socket.socket) -> None:
    """Answers one client until it goes away."""
    sock, _ = listener.accept()
    zeros = memoryview(bytes(_BLOCK))
    sink = memoryview(bytearray(_BLOCK))
    with sock:
        while request := sock.recv(_REQUEST.size, socket.MSG_WAITALL):
            kind, left = _REQUEST.unpack(request)
            while left:
                part = min(left, _BLOCK)
                left -= sock.send(zeros[:part]) if kind == b"g" else sock.recv_into(sink[:part])
            if kind == b"p":
                sock.sendall(b".")


if __name__ == "__main__":
    with socket.socket(int(sys.argv[2]), socket.SOCK_STREAM, fileno=int(sys.argv[1])) as passed:
        serve(passed)
