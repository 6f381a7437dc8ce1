"""Opening streams: TCP, TLS over TCP, and unix sockets.

The addresses of a host are tried side by side, each a little after the one before ("Happy Eyeballs", RFC 8305). So an
address that drops what is sent to it costs `HEAD_START` seconds, and not the caller's deadline.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, TypeAlias

from .loop_stream import LoopStream
from .socket_options import end_by_themselves, find_dead_peers
from .staggered import first_of
from .tls import TLSSettings, handshake
from .tls_errors import CertificateRefusedError, NoCommonTLSError
from .tls_wire import TLSWire
from .wire import StreamClosedError, StreamStalledError, Wire

AddressInfo: TypeAlias = tuple[Any, Any, int, str, Any]
"""What `getaddrinfo` returns for one address."""


async def open_tcp_stream(
    host: str, port: int, tls: TLSSettings | None = None, stall_timeout: float | None = None
) -> LoopStream:
    """Connects to the first of the host's addresses that answers. The caller sets the deadline.

    `stall_timeout`: seconds without a byte of progress after which the connection is dead, also while it is made.

    Raises:
        StreamClosedError: no address answers. Its cause is the last address's error.
        CertificateRefusedError: one end does not accept the other's certificate.
        NoCommonTLSError: the two ends have no TLS in common; NotTLSError: the peer speaks none.
        TLSSettingsError: a file of `tls` cannot be used.
    """
    loop = asyncio.get_running_loop()
    try:
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StreamClosedError(f"the name {host!r} cannot be resolved: {error.strerror or error}") from error
    except UnicodeError as error:  # Python's own, before it asks anybody
        reason = "a part of it is empty, or longer than 63 bytes"
        raise StreamClosedError(f"the name {host!r} cannot be resolved: {reason}") from error
    return await open_first(addresses, host, f"{host}:{port}", tls, stall_timeout)


async def open_first(
    addresses: Sequence[AddressInfo], host: str, peer: str, tls: TLSSettings | None, stall_timeout: float | None
) -> LoopStream:
    """Connects to the first of the addresses that answers. Raises what `open_tcp_stream` raises."""
    errors: list[Exception] = []
    attempts = [partial(_open, address, host, peer, tls, stall_timeout) for address in _alternating(addresses)]
    wire = await first_of(attempts, Wire.close, errors)
    if wire is not None:
        return LoopStream(wire, asyncio.get_running_loop())
    for error in errors:
        if not isinstance(error, OSError) or isinstance(error, CertificateRefusedError | NoCommonTLSError):
            raise error
    failure = errors[-1] if errors else OSError(f"the name {host!r} has no address")
    assert isinstance(failure, OSError)  # noqa: S101  # the others were raised
    if isinstance(failure, StreamStalledError):
        raise failure
    raise StreamClosedError(f"cannot connect to {peer}: {_reason(failure)}") from failure


def _alternating(addresses: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Returns the addresses with their families in turn, because often one family as a whole does not work."""
    families: dict[Any, list[AddressInfo]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    return [address for turn in zip_longest(*families.values()) for address in turn if address is not None]


async def _open(
    address: AddressInfo, host: str, peer: str, tls: TLSSettings | None, stall_timeout: float | None
) -> Wire:
    family, kind, protocol, _, name = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        find_dead_peers(sock, stall_timeout)
        await _connect(sock, name, stall_timeout)
        layer = None if tls is None else await handshake(sock, tls, host, peer, stall_timeout)
        end_by_themselves(sock, stall_timeout)
        return Wire(sock, peer, stall_timeout) if layer is None else TLSWire(sock, layer, peer, stall_timeout)
    except BaseException:
        sock.close()
        raise


async def _connect(sock: socket.socket, name: Any, stall_timeout: float | None) -> None:
    try:
        async with asyncio.timeout(stall_timeout):
            await asyncio.get_running_loop().sock_connect(sock, name)
    except TimeoutError as error:
        if error.errno is not None:  # the kernel's own
            raise
        raise TimeoutError(f"no answer within {stall_timeout:g} s") from None


async def open_unix_stream(path: str, stall_timeout: float | None = None) -> LoopStream:
    """Connects to a unix socket. `stall_timeout` is as for `open_tcp_stream`.

    Raises:
        StreamClosedError: from the system's error.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await _connect(sock, path, stall_timeout)
        end_by_themselves(sock, stall_timeout)
        return LoopStream(Wire(sock, path, stall_timeout), asyncio.get_running_loop())
    except OSError as error:
        sock.close()
        raise StreamClosedError(f"cannot connect to {path}: {_reason(error)}") from error
    except BaseException:
        sock.close()
        raise


def _reason(error: OSError) -> str:
    # asyncio replaces the system's text by one that repeats the address.
    if not error.errno or error.errno < 0:
        return str(error.strerror or error)
    return os.strerror(error.errno)
