"""`TLSSettings`: how a TLS peer is verified, and the handshake with it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.to_thread

from ..errors import LMCacheConnectError
from .tls_errors import TLSMeaning
from .tls_layer import TLSLayer
from .wire import StreamClosedError, StreamStalledError

_ANSWER_BYTES: Final = 16 << 10

_Stamp = tuple[tuple[int, ...], ...]
"""Which versions of the files a context was made from."""


class TLSSettingsError(LMCacheConnectError, ValueError):
    """A file of the TLS settings cannot be used."""

    def __init__(self, setting: str, path: str, error: OSError) -> None:
        expected = "PEM, with the key in the same file or in key_file" if setting == "cert_file" else "PEM"
        super().__init__(f"the {setting} {path!r} cannot be used: {error.strerror or error}; expected {expected}")
        self.setting = setting
        self.path = path


@dataclass
class TLSSettings:
    """How a TLS peer is verified, and what this end shows of itself. The peer is verified unless `verify` is False.

    `ca_file` replaces the system's certificate authorities. `cert_file` and `key_file` are this end's certificate.
    `server_name` is the name that the peer's certificate must have, where that is not the host's. Files that have
    changed are read again for the next connection.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    server_name: str | None = None
    _made: tuple[_Stamp, ssl.SSLContext] | None = field(default=None, init=False, repr=False)
    _limiter: anyio.CapacityLimiter | None = field(default=None, init=False, repr=False)

    @property
    def authorities(self) -> str:
        """What the peer's certificate is verified against, for people."""
        return self.ca_file or "the system's certificate authorities"

    async def context(self) -> ssl.SSLContext:
        """Returns the context. It is made once, and again after one of the files has changed.

        That is done in a thread, because reading the system's authorities takes 20 ms and more. A cancelled caller does
        not wait for it.

        Raises:
            TLSSettingsError: one of the files cannot be used.
        """
        made = self._made
        files = self._files()
        if made is None or files:
            if self._limiter is None:
                self._limiter = anyio.CapacityLimiter(1)  # many connections at once need no thread each
            made = self._made = await anyio.to_thread.run_sync(
                self._current, abandon_on_cancel=True, limiter=self._limiter
            )
        return made[1]

    def _files(self) -> list[str]:
        return [path for path in (self.ca_file, self.cert_file, self.key_file) if path is not None]

    def _current(self) -> tuple[_Stamp, ssl.SSLContext]:
        made = self._made
        stamp = tuple(map(_file_stamp, self._files()))  # before they are read: a later change shows next time
        return made if made is not None and made[0] == stamp else (stamp, self._make())

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


def _file_stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()  # reading it says why
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


async def handshake(
    sock: socket.socket, settings: TLSSettings, host: str, peer: str, stall_timeout: float | None = None
) -> TLSLayer:
    """Does the handshake with `host` on a connected, non-blocking socket, which stays the caller's. Returns the layer.

    `peer` names the other end in errors. `stall_timeout`: seconds that it may be silent.

    Raises:
        TLSSettingsError: one of the settings' files cannot be used.
        CertificateRefusedError, NoCommonTLSError, StreamStalledError, StreamClosedError: the handshake failed.
        OSError: the socket failed.
    """
    context = await settings.context()
    # With its final dot, a name is complete for the resolver. Certificates and SNI have it without.
    name = settings.server_name or host.removesuffix(".")
    layer = TLSLayer(context, peer, TLSMeaning(name, settings.authorities, settings.cert_file is not None))
    received = memoryview(bytearray(_ANSWER_BYTES))
    loop = asyncio.get_running_loop()
    while True:
        try:
            is_done = layer.shake_hands()
        except StreamClosedError:
            _tell(sock, layer)
            raise
        count = 1
        try:
            async with asyncio.timeout(stall_timeout):
                if layer.has_encrypted:
                    await loop.sock_sendall(sock, layer.encrypted())
                if not is_done:
                    count = await loop.sock_recv_into(sock, received)
        except TimeoutError as error:
            if error.errno is not None:  # the kernel's own
                raise
            raise StreamStalledError(f"the TLS handshake with {peer}", stall_timeout or 0.0) from None
        if is_done:
            return layer
        if not count:
            raise StreamClosedError(f"{peer} closed the connection in the TLS handshake")
        layer.take(received[:count])


def _tell(sock: socket.socket, layer: TLSLayer) -> None:
    """Tells the peer why the handshake failed, where the socket takes that at once."""
    try:
        sock.send(layer.encrypted())
    except OSError:
        pass
