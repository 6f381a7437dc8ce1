"""Opening byte streams: TCP, TLS over TCP, and unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio.to_thread

from ..errors import LMCacheConnectError
from .stream import ByteStream, StreamClosedError


class TLSSettingsError(LMCacheConnectError, ValueError):
    """A file of the TLS settings cannot be used."""

    def __init__(self, setting: str, path: str, error: OSError) -> None:
        super().__init__(f"the {setting} {path!r} cannot be used: {error.strerror or error}; expected PEM")
        self.setting = setting
        self.path = path


@dataclass
class TLSSettings:
    """How a TLS peer is verified and how this end shows who it is. Verification is on unless `verify` is False.

    `ca_file` replaces the system's certificate authorities. `cert_file` and `key_file` are this end's certificate.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    server_name: str | None = None
    _context: ssl.SSLContext | None = field(default=None, init=False, repr=False)

    async def context(self) -> ssl.SSLContext:
        """The context, made once, in a thread: reading the system's authorities takes tens of milliseconds.

        Raises:
            TLSSettingsError: one of the files cannot be used.
        """
        if self._context is None:
            self._context = await anyio.to_thread.run_sync(self._make)
        return self._context

    def _make(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise TLSSettingsError("ca_file", str(self.ca_file), error) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file is not None:
            try:
                # A password callback, because OpenSSL would ask for it on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
            except OSError as error:
                raise TLSSettingsError("cert_file", self.cert_file, error) from error
        return context


async def open_tcp_stream(host: str, port: int, tls: TLSSettings | None = None) -> ByteStream:
    """A stream to the first of the host's addresses that answers. The caller sets the deadline.

    Raises:
        StreamClosedError, from the last address's error.
        ssl.SSLCertVerificationError: the peer's certificate does not verify.
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
            if tls is not None:
                sock = await _handshake(sock, loop, await tls.context(), tls.server_name or host)
            return ByteStream(sock, loop, peer)
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


async def open_unix_stream(path: str) -> ByteStream:
    """A stream to a unix socket. Raises `StreamClosedError` from the system's error."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, path)
        return ByteStream(sock, loop, path)
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


async def _handshake(
    sock: socket.socket, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext, server_name: str
) -> ssl.SSLSocket:
    secured = context.wrap_socket(sock, server_hostname=server_name, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
                return secured
            except ssl.SSLWantReadError:
                await _ready(loop, loop.add_reader, loop.remove_reader, secured.fileno())
            except ssl.SSLWantWriteError:
                await _ready(loop, loop.add_writer, loop.remove_writer, secured.fileno())
    except BaseException:
        secured.close()
        raise


async def _ready(
    loop: asyncio.AbstractEventLoop,
    add: Callable[[int, Callable[[], object]], object],
    remove: Callable[[int], object],
    descriptor: int,
) -> None:
    future: asyncio.Future[None] = loop.create_future()
    add(descriptor, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        remove(descriptor)
