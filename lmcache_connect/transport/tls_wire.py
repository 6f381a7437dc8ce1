"""`TLSWire`: the wire of a connection that speaks TLS.

OpenSSL never sees the socket. What comes is received into a buffer of the wire, many TLS records by one system call,
and OpenSSL decrypts it into the caller's memory. What goes out is encrypted out of the caller's memory, and all its
records leave by one system call. So a plain socket blocks, ends by itself and is watched as that of every other wire,
and the event loop and a thread can have the wire in turn. An SSL socket would make two system calls for each record to
receive it, and one to send it. `docs/speed.md` compares them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from .tls_layer import TLSLayer
from .wire import BLOCKED, LAST_WORDS_BYTES, StreamClosedError, Wire

RECEIVED_BYTES: Final = 256 << 10
"""Encrypted bytes that one system call receives at most."""

ENCRYPTED_BYTES: Final = 128 << 10
"""Bytes of a payload that are encrypted before they are sent: few enough to be in the CPU's cache still."""

_AMID: Final = " in the middle of a value"

_NOTHING: Final = memoryview(b"")


class TLSWire(Wire):
    """One connected socket, and the TLS layer over it that has done its handshake.

    Its counters count encrypted bytes: each of them is progress, also where a record has not come whole.
    """

    __slots__ = ("_encrypted", "_layer", "_received_into", "_taken")

    hides_bytes: ClassVar = True

    def __init__(self, sock: socket.socket, layer: TLSLayer, peer: str, stall_timeout: float | None = None) -> None:
        """Owns `sock`, on which `layer` has done its handshake. See `Wire`."""
        super().__init__(sock, peer, stall_timeout)
        self._layer: Final = layer
        self._received_into: Final = memoryview(bytearray(RECEIVED_BYTES))
        self._encrypted: memoryview = _NOTHING
        """What is encrypted and not sent."""
        self._taken = 0
        """How many of the caller's bytes are encrypted, and are not all sent: the caller has not been told of them."""

    def peer_certificate(self) -> dict[str, Any] | None:
        return self._layer.peer_certificate()

    # ------------------------------------------------------------------------------------------------- receiving

    def receive_scratch(self, limit: int) -> int:
        """Receives up to `limit` protocol bytes into the scratch, as many as there are. Returns how many."""
        scratch = self.scratch
        start = scratch.stop
        stop = start + limit
        scratch.stop = start + self._decrypt(scratch.view[start:stop])
        while scratch.stop < stop and (count := self._layer.decrypt(scratch.view[scratch.stop : stop])):
            scratch.stop += count
        return scratch.stop - start

    def receive_piece(self, dest: memoryview, ahead: int) -> int:
        """Receives into `dest`. Nothing is read ahead: what follows stays in the TLS layer."""
        return self.receive_whole(dest)

    def receive_pieces(self, dests: Sequence[memoryview], size: int, ahead: int, *, whole: bool = False) -> int:
        """`receive_piece` for several buffers, which it fills one after the other."""
        filled = 0
        for dest in dests:
            try:
                count = self.receive_whole(dest)
            except BLOCKED:
                if filled:
                    break
                raise
            filled += count
            if count < len(dest):
                break
        return filled

    def receive_whole(self, dest: memoryview) -> int:
        """Receives into `dest` until it is full, or the socket has no more. Returns how many bytes are in it."""
        filled = self._decrypt(dest, _AMID)
        size = len(dest)
        try:
            while filled < size:
                filled += self._decrypt(dest[filled:], _AMID)
        except BLOCKED:
            pass
        return filled

    def _decrypt(self, dest: memoryview, amid: str = "") -> int:
        """Decrypts one record into `dest`, or what fits. Returns how many bytes, at least one. May raise `BLOCKED`."""
        while not (count := self._layer.decrypt(dest)):
            if self._layer.has_encrypted:
                self._send_own()
            self.check_deadline()
            self._receive_encrypted(amid)
        return count

    def _receive_encrypted(self, amid: str = "", flags: int = 0) -> None:
        count = 0 if self._layer.is_ended else self._sock.recv_into(self._received_into, 0, flags)
        if not count:
            raise StreamClosedError(f"{self.peer} closed the connection{amid}")
        self.bytes_received += count
        self._layer.take(self._received_into[:count])

    def _send_own(self) -> None:
        """Sends what the layer itself has to say, such as the answer to a renegotiation, as far as the socket takes it.

        The rest goes ahead of the next message.
        """
        try:
            self._flush()
        except BLOCKED:
            pass

    # --------------------------------------------------------------------------------------------------- sending

    def send(self, pieces: list[memoryview]) -> int:
        """Sends from the beginning of `pieces`, which is not empty. Returns how many bytes were sent.

        Where it raises `BLOCKED`, they are encrypted already, and the next call must get the same ones.
        """
        self.check_deadline()
        if not self._taken:
            self._taken = self._layer.encrypt(pieces, ENCRYPTED_BYTES)
        self._flush()
        taken, self._taken = self._taken, 0
        return taken

    def _flush(self) -> None:
        while self._encrypted or self._layer.has_encrypted:
            if not self._encrypted:
                self._encrypted = self._layer.encrypted()
            count = self._sock.send(self._encrypted)
            self.bytes_sent += count
            self._encrypted = self._encrypted[count:]
            if self._encrypted:  # a slow peer takes a little at a time
                self.check_deadline()

    # ------------------------------------------------------------------------------------------------- questions

    def _is_readable(self) -> bool:
        is_readable = super()._is_readable()
        if not is_readable and not self._layer.holds_bytes:
            return False
        try:
            if is_readable:
                self._receive_encrypted(flags=socket.MSG_DONTWAIT)
            # A TLS peer may send session tickets or key updates, which are not data.
            return bool(self._layer.decrypt(memoryview(bytearray(1)))) or self._layer.is_ended
        except BLOCKED:
            return False
        except OSError:
            return True  # the end

    def failure(self, error: OSError) -> StreamClosedError:
        """Returns the error to raise for one that a call raised. To be called before the wire is closed.

        Where the peer has said why it ends the connection, that is the reason, also if the first to fail was a call
        that sends. TLS 1.3 tells a client only then that its certificate is refused.
        """
        lost = super().failure(error)  # which looks for last words
        return self._layer.failure() or lost

    def _receive_rest(self) -> bytes:
        rest = memoryview(bytearray(LAST_WORDS_BYTES))
        filled = 0
        while filled < len(rest):
            count = self._layer.decrypt(rest[filled:])
            filled += count
            if not count:
                try:
                    self._receive_encrypted(flags=socket.MSG_DONTWAIT)
                except OSError:
                    break
        return bytes(rest[:filled])
