"""`TLSSettings`: how a TLS peer is verified, and the handshake with it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio.to_thread

from ..errors import LMCacheConnectError

_Stamp = tuple[tuple[int, ...], ...]
"""Which versions of the files a context was made from."""


class TLSSettingsError(LMCacheConnectError, ValueError):
    """A file of the TLS settings cannot be used."""

    def __init__(self, setting: str, path: str, error: OSError) -> None:
        super().__init__(f"the {setting} {path!r} cannot be used: {error.strerror or error}; expected PEM")
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
            made = self._made = await anyio.to_thread.run_sync(self._current, made, abandon_on_cancel=True)
        return made[1]

    def _files(self) -> list[str]:
        return [path for path in (self.ca_file, self.cert_file, self.key_file) if path is not None]

    def _current(self, made: tuple[_Stamp, ssl.SSLContext] | None) -> tuple[_Stamp, ssl.SSLContext]:
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
    sock: socket.socket, settings: TLSSettings, host: str, stall_timeout: float | None = None
) -> ssl.SSLSocket:
    """Does the handshake with `host` on a connected, non-blocking socket, which it owns from then on.

    `stall_timeout`: seconds that the peer may be silent.

    Raises:
        TLSSettingsError: one of the settings' files cannot be used.
        OSError: the handshake failed; ssl.SSLCertVerificationError: the peer's certificate does not verify.
    """
    context = await settings.context()
    loop = asyncio.get_running_loop()
    # With its final dot, a name is complete for the resolver. Certificates and SNI have it without.
    name = settings.server_name or host.removesuffix(".")
    secured = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
                return secured
            except ssl.SSLWantReadError:
                add, remove = loop.add_reader, loop.remove_reader
            except ssl.SSLWantWriteError:
                add, remove = loop.add_writer, loop.remove_writer
            # Outside the handler: the wait's own failure must not have OpenSSL's "not yet" as its context.
            await _ready(loop, add, remove, secured.fileno(), stall_timeout)
    except BaseException:
        secured.close()
        raise


async def _ready(
    loop: asyncio.AbstractEventLoop,
    add: Callable[[int, Callable[[], object]], object],
    remove: Callable[[int], object],
    descriptor: int,
    stall_timeout: float | None,
) -> None:
    future: asyncio.Future[None] = loop.create_future()
    add(descriptor, lambda: None if future.done() else future.set_result(None))
    try:
        async with asyncio.timeout(stall_timeout):
            await future
    except TimeoutError:
        raise TimeoutError(f"the TLS handshake moved no byte for {stall_timeout:g} s") from None
    finally:
        remove(descriptor)
