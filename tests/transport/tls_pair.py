"""Two ends of a TLS connection without a port: a wire, and a peer whose encrypted bytes the test has in its hands."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import trustme

from lmcache_connect.transport import TLSSettings
from lmcache_connect.transport.socket_options import end_by_themselves
from lmcache_connect.transport.tls import handshake
from lmcache_connect.transport.tls_wire import TLSWire


@cache
def server_context() -> ssl.SSLContext:
    """What a peer needs that nobody verifies."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("peer.example").configure_cert(context)
    return context


class Peer:
    """The other end. What it says is encrypted first, and sent as the test likes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._secured = server_context().wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def shake_hands(self) -> None:
        while True:
            try:
                self._secured.do_handshake()
            except ssl.SSLWantReadError:
                await self.send(self._outgoing.read())
                await self._receive()
            else:
                await self.send(self._outgoing.read())
                return

    def encrypted(self, said: bytes) -> bytes:
        """Returns the TLS records that say it."""
        self._secured.write(said)
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """Returns the record that ends the connection."""
        try:
            self._secured.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def sendall(self, said: bytes) -> None:
        """Says it at once, as a plain socket would."""
        self.sock.sendall(self.encrypted(said))

    def recv(self, nbytes: int) -> bytes:
        """Waits for what the wire sends, and returns up to so many bytes of it."""
        while True:
            try:
                return self._secured.read(nbytes)
            except ssl.SSLWantReadError:
                assert select.select([self.sock], [], [], 5.0)[0]
            self._incoming.write(self.sock.recv(4096))

    def close(self) -> None:
        """Closes the socket, without a word."""
        self.sock.close()

    async def send(self, encrypted: bytes, pieces_of: int = 1 << 20) -> None:
        """Sends what is encrypted, in pieces, with a turn of the loop after each."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(encrypted), pieces_of):
            await loop.sock_sendall(self.sock, encrypted[start : start + pieces_of])
            await asyncio.sleep(0)

    async def read(self, nbytes: int) -> bytes:
        """Returns the next bytes that the wire has sent."""
        found = bytearray()
        while len(found) < nbytes:
            try:
                found += self._secured.read(nbytes - len(found))
            except ssl.SSLWantReadError:
                await self._receive()
        return bytes(found)

    async def _receive(self) -> None:
        received = await asyncio.get_running_loop().sock_recv(self.sock, 4096)
        assert received
        self._incoming.write(received)


@asynccontextmanager
async def tls_pair(stall_timeout: float | None = None) -> AsyncIterator[tuple[TLSWire, Peer]]:
    """A wire and its peer, after the handshake. The peer is closed at the end; the wire is the caller's."""
    here, there = socket.socketpair()
    for sock in (here, there):
        sock.setblocking(False)
    peer = Peer(there)
    layer, _ = await asyncio.gather(
        handshake(here, TLSSettings(verify=False), "peer.example", "the peer", stall_timeout), peer.shake_hands()
    )
    try:
        end_by_themselves(here, stall_timeout)
        yield TLSWire(here, layer, "the peer", stall_timeout), peer
    finally:
        peer.close()
