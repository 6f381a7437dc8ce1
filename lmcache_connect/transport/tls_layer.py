"""`TLSLayer`: one TLS connection, as bytes that come in and bytes that go out. It has no socket."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from .tls_errors import TLSFailure, TLSMeaning, not_tls_error, tls_error
from .wire import StreamClosedError

_RECORD_BYTES: Final = 16 << 10
"""The most that one TLS record holds."""

_RECORD_TYPES: Final = frozenset({0x14, 0x15, 0x16, 0x17})


class TLSLayer:
    """One TLS connection over two buffers, of what was received and of what is to be sent. For one thread at a time."""

    __slots__ = (
        "_failed",
        "_has_begun",
        "_incoming",
        "_meaning",
        "_outgoing",
        "_peer",
        "_read",
        "_secured",
        "is_ended",
    )

    def __init__(self, context: ssl.SSLContext, peer: str, meaning: TLSMeaning) -> None:
        """`peer` names the other end in errors. `meaning`: what they say of the settings."""
        self._incoming: Final = ssl.MemoryBIO()
        self._outgoing: Final = ssl.MemoryBIO()
        self._secured: Final = context.wrap_bio(self._incoming, self._outgoing, server_hostname=meaning.server_name)
        # With a buffer it returns a number. What typeshed says is that without one.
        self._read: Final = cast(Callable[[int, memoryview], int], self._secured.read)
        self._peer: Final = peer
        self._meaning: Final = meaning
        self._has_begun = False
        self._failed: TLSFailure | None = None
        self.is_ended = False
        """Whether the peer has ended the connection, in words of TLS."""

    def shake_hands(self) -> bool:
        """Goes on with the handshake, as far as what was received allows it. Returns whether it is done.

        Raises:
            StreamClosedError: it failed. `encrypted()` then has what the peer is to be told.
        """
        try:
            self._secured.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise tls_error(self._peer, TLSFailure.of(error), self._meaning) from error
        return True

    def take(self, received: memoryview) -> None:
        """Takes bytes that were received. They are copied.

        Raises:
            NotTLSError: the peer's first bytes are none of TLS.
        """
        if not self._has_begun:
            self._has_begun = True
            if received[0] not in _RECORD_TYPES:
                raise not_tls_error(self._peer)
        self._incoming.write(received)

    def decrypt(self, dest: memoryview) -> int:
        """Decrypts what was received into `dest`, up to the end of a record. Returns how many bytes; 0: it needs more.

        Raises:
            ssl.SSLError: the peer ended the connection and said why, or something came that is not from it.
        """
        try:
            count = self._read(len(dest), dest)
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLError as error:
            self._failed = self._failed or TLSFailure.of(error)  # the first one tells why
            raise
        if not count:
            self.is_ended = True
        return count

    def encrypt(self, pieces: Sequence[memoryview], limit: int) -> int:
        """Encrypts from the beginning of `pieces`, up to `limit` bytes, for `encrypted()`. Returns how many.

        Small pieces that follow each other share a record.
        """
        taken = 0
        small: list[memoryview] = []
        room = _RECORD_BYTES
        for piece in pieces:
            if taken >= limit:
                break
            part = piece[: limit - taken]
            if not part:
                continue
            if len(part) > room:
                self._encrypt_small(small)
                room = _RECORD_BYTES
            if len(part) > room:
                self._secured.write(part)
            else:
                small.append(part)
                room -= len(part)
            taken += len(part)
        self._encrypt_small(small)
        return taken

    def _encrypt_small(self, pieces: list[memoryview]) -> None:
        if pieces:
            self._secured.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()

    def encrypted(self) -> memoryview:
        """Takes what is to be sent."""
        return memoryview(self._outgoing.read())

    @property
    def has_encrypted(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._outgoing.pending)

    @property
    def holds_bytes(self) -> bool:
        """Whether something was received that nobody has taken. It may be no data."""
        return bool(self._incoming.pending or self._secured.pending())

    def peer_certificate(self) -> dict[str, Any]:
        """The peer's certificate, as `ssl` tells it; {} where it was not verified."""
        return dict(self._secured.getpeercert() or {})

    def failure(self) -> StreamClosedError | None:
        """Returns the error for what ended the connection, where that was OpenSSL, or the peer in words of TLS."""
        return tls_error(self._peer, self._failed, self._meaning) if self._failed is not None else None
