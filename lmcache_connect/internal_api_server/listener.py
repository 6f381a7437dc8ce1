"""`Listener`: the socket of a server. It is bound before the server starts, so that a failure is raised at once."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from .errors import ServerBindError

_BACKLOG: Final = 128


class Listener:
    """A bound and listening socket. `address` is its URL; for a unix socket, `unix:<path>`."""

    def __init__(self, sock: socket.socket, address: str, file: tuple[Path, int, int] | None = None) -> None:
        self.sock = sock
        self.address = address
        self._file = file

    @classmethod
    def tcp(cls, host: str, port: int) -> Listener:
        """Listens on the first address of `host`. Port 0 takes a free port.

        Raises:
            ServerBindError: the port is occupied or privileged, or this machine does not have the address.
        """
        shown = f"[{host}]" if ":" in host else host
        where = f"{shown}:{port}"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise ServerBindError(where, f"the name cannot be resolved: {error.strerror}") from error
        sock = socket.socket(family, kind, protocol)
        try:
            # Connections of a server that has just ended may linger. Two servers at a time are refused all the same.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise ServerBindError(where, _tcp_reason(error)) from error
        sock.setblocking(False)
        return cls(sock, f"http://{shown}:{sock.getsockname()[1]}")

    @classmethod
    def unix(cls, path: Path) -> Listener:
        """Listens on a unix socket that is made with mode 0600. A file that is at `path` already is never removed.

        Raises:
            ServerBindError: something is at `path`, or the socket cannot be made there.
        """
        where = f"unix:{path}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            try:
                os.fchmod(
                    sock.fileno(), 0o600
                )  # on Linux the file is made with this mode, so that nobody can open it before
            except OSError:
                pass  # other systems: the mode is set below, before anything listens
            sock.bind(str(path))
            path.chmod(0o600)
            made = path.stat()
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise ServerBindError(where, _unix_reason(error, path)) from error
        sock.setblocking(False)
        return cls(sock, where, (path, made.st_dev, made.st_ino))

    def listen(self) -> None:
        """Sets how many connections the system keeps until they are accepted. May be called again."""
        self.sock.listen(_BACKLOG)

    def close(self) -> None:
        """Closes the socket, and removes its file where it is still the one made here. Idempotent."""
        self.sock.close()
        file, self._file = self._file, None
        if file is None:
            return
        path, device, inode = file
        try:
            found = path.lstat()
            if (found.st_dev, found.st_ino) == (device, inode):
                path.unlink()
        except OSError:
            pass  # the file or its folder was removed meanwhile


def _tcp_reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there; stop it, or choose another port (0 takes a free one)"
        case errno.EACCES:
            return "permission denied: ports below 1024 are privileged; choose another one"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that address"
        case _:
            return error.strerror or str(error)


def _unix_reason(error: OSError, path: Path) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return _occupant(path)
        case errno.ENOENT:
            return f"there is no folder {path.parent}"
        case errno.EACCES:
            return f"no permission to make a file in {path.parent}"
        case _:
            return error.strerror or str(error)  # a path that is too long has no errno


def _occupant(path: Path) -> str:
    """Says what is at a path, and what to do about it."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return "something is there"
    if not is_socket:
        return "a file that is not a socket is there; choose another path"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return "a socket is there that nobody listens on, left behind by a server that was killed; remove the file"
        except OSError:
            return "a socket is there already"
    return "another program listens there; stop it, or choose another path"
