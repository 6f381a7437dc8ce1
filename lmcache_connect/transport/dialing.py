"""Opening streams: TCP, TLS over TCP, and unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

from .loop_stream import LoopStream
from .tls import TLSSettings, handshake
from .wire import StreamClosedError, TLSWire, Wire


async def open_tcp_stream(host: str, port: int, tls: TLSSettings | None = None) -> LoopStream:
    """Connects to the first of the host's addresses that answers. The caller sets the deadline.

    Raises:
        StreamClosedError: no address answers. Its cause is the last address's error.
        ssl.SSLCertVerificationError: the peer's certificate does not verify.
        TLSSettingsError: a file of `tls` cannot be used.
    """
    loop = asyncio.get_running_loop()
    peer = f"{host}:{port}"
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StreamClosedError(f"the name {host!r} cannot be resolved: {error.strerror or error}") from error
    failure = OSError(f"the name {host!r} has no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await loop.sock_connect(sock, address)
            wire = Wire(sock, peer) if tls is None else TLSWire(await handshake(sock, tls, host), peer)
            return LoopStream(wire, loop)
        except ssl.SSLCertVerificationError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise StreamClosedError(f"cannot connect to {peer}: {_reason(failure)}") from failure


async def open_unix_stream(path: str) -> LoopStream:
    """Connects to a unix socket. Raises `StreamClosedError` from the system's error."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, path)
        return LoopStream(Wire(sock, path), loop)
    except OSError as error:
        sock.close()
        raise StreamClosedError(f"cannot connect to {path}: {_reason(error)}") from error
    except BaseException:
        sock.close()
        raise


def _reason(error: OSError) -> str:
    # asyncio replaces the system's text by one that repeats the address.
    if isinstance(error, ssl.SSLError) or not error.errno or error.errno < 0:
        return str(error.strerror or error)
    return os.strerror(error.errno)
