"""`ByteStream`: a non-blocking socket that receives into, and sends from, the caller's own memory."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final

from ..errors import LMCacheConnectError
from .transfer import BLOCKED, PIECE_BYTES, Filling, Hasher, Operation, Receiving, Sending, Transfer, wants_write
from .turns import Turns, turns_of

SCRATCH_BYTES: Final = 64 << 10
"""Buffered bytes of protocol lines and headers. Payloads do not pass through here but for their first few hundred."""

HEAD_BYTES: Final = 512
"""How much is read ahead where a payload may follow: enough for a protocol line and a header."""


_WHOLE: Final = 1 << 62
"""A turn without end."""

_NOTHING: Final = memoryview(b"")


class StreamClosedError(LMCacheConnectError, ConnectionError):
    """The peer closed or reset the connection, or this end did. `last_words` is what the peer said before, if any."""

    def __init__(self, reason: str, last_words: bytes = b"") -> None:
        super().__init__(reason)
        self.last_words = last_words


class ByteStream:
    """One connected socket on one event loop. One reader and one writer at a time.

    No copy is made of a payload: the kernel writes it into the caller's buffer and reads it from there, and each piece
    is hashed while the CPU's cache still holds it. Work goes on in callbacks of the loop, so that a transfer costs no
    task switches, and the streams of a loop share what it moves in a turn.

    A call that is cancelled or fails closes the stream: what is on the wire can no longer be told apart. From then on
    nothing here touches the caller's buffer.
    """

    __slots__ = (
        "_budget",
        "_hi",
        "_is_ended",
        "_lent",
        "_lo",
        "_loop",
        "_reader_on",
        "_reading",
        "_scratch",
        "_sock",
        "_tls",
        "_view",
        "_writer_on",
        "_writing",
        "bytes_received",
        "bytes_sent",
        "peer",
        "turns",
    )

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, peer: str) -> None:
        """Takes over `sock`, which is connected and non-blocking (a `ssl.SSLSocket` after its handshake)."""
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._loop = loop
        self._scratch = bytearray(SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._lo = self._hi = 0
        self.turns = turns_of.setdefault(loop, Turns())
        self._budget = self.turns.bytes_each()
        self._reading: Transfer | None = None
        self._writing: Transfer | None = None
        self._reader_on = self._writer_on = False
        self._lent = self._is_ended = False
        self.peer = peer
        self.bytes_received = 0
        self.bytes_sent = 0

    # ---------------------------------------------------------------------------------------------- receiving

    @property
    def buffered(self) -> int:
        """Received bytes that nobody has taken yet."""
        return self._hi - self._lo

    async def read_until_crlf(self, limit: int = 4096, ahead: int = HEAD_BYTES) -> bytes:
        """The bytes before the next CR LF, which is taken as well.

        Raises:
            StreamClosedError: the connection ended, or no CR LF came within `limit` bytes.
        """
        searched = self._lo
        while (end := self._scratch.find(b"\r\n", searched, self._hi)) < 0:
            if self.buffered >= limit:
                self.close()
                raise StreamClosedError(f"{self.peer} sent a line of more than {limit} bytes")
            searched_length = max(self.buffered - 1, 0)
            await self._fill_more(ahead)
            searched = self._lo + searched_length
        line = bytes(self._view[self._lo : end])
        self._lo = end + 2
        return line

    async def peek(self, nbytes: int) -> memoryview:
        """The next `nbytes` bytes (at most `SCRATCH_BYTES`), not taken yet. Valid until the next call."""
        while self.buffered < nbytes:
            await self._fill_more(max(HEAD_BYTES, nbytes - self.buffered))
        return self._view[self._lo : self._lo + nbytes]

    def take(self, nbytes: int) -> None:
        """Takes `nbytes` that `peek` showed."""
        self._lo += nbytes

    async def read_some(self, limit: int) -> bytes:
        """1 to `limit` bytes, as soon as there are any; b"" when the peer has closed."""
        if not self.buffered:
            try:
                await self._fill_more(min(limit, SCRATCH_BYTES))
            except StreamClosedError:
                return b""
        taken = bytes(self._view[self._lo : min(self._hi, self._lo + limit)])
        self._lo += len(taken)
        return taken

    async def peek_available(self, at_least: int) -> memoryview:
        """All buffered bytes, at least so many, as much as one read gives. Not taken yet; valid until the next call."""
        while self.buffered < at_least:
            await self._fill_more(SCRATCH_BYTES)
        return self._view[self._lo : self._hi]

    async def receive_into(self, dest: memoryview, hasher: Hasher | None = None) -> None:
        """Fills `dest` completely, showing each piece to `hasher`.

        Raises:
            StreamClosedError: the connection ended before; `dest` holds arbitrary bytes then.
        """
        if self._lent:
            self.receive_now(dest, hasher)
            return
        size = len(dest)
        filled = min(self.buffered, size)
        if filled:
            dest[:filled] = self._view[self._lo : self._lo + filled]
            self._lo += filled
            if hasher is not None:
                hasher.update(dest[:filled])
        if filled == size:
            return
        operation = Receiving(dest, filled, hasher)
        del dest  # a kept traceback keeps this frame, and must not keep the buffer
        await self._transfer(operation, reading=True)

    async def discard(self, nbytes: int) -> None:
        """Takes `nbytes` bytes and forgets them."""
        while nbytes:
            if not self.buffered:
                await self._fill_more(min(nbytes, SCRATCH_BYTES))
            taken = min(nbytes, self.buffered)
            self._lo += taken
            nbytes -= taken

    async def _fill_more(self, limit: int) -> None:
        self._make_room(limit)
        await self._transfer(Filling(min(limit, SCRATCH_BYTES - self._hi)), reading=True)

    def _make_room(self, nbytes: int) -> None:
        if self._lo == self._hi:
            self._lo = self._hi = 0
        elif self._hi + nbytes > SCRATCH_BYTES:
            remaining = self.buffered
            self._view[:remaining] = bytes(self._view[self._lo : self._hi])
            self._lo, self._hi = 0, remaining

    def receive_scratch(self, limit: int) -> int:
        """One system call for protocol bytes."""
        count = self._sock.recv_into(self._view[self._hi : self._hi + limit])
        if not count:
            raise StreamClosedError(f"{self.peer} closed the connection")
        self._hi += count
        self.bytes_received += count
        return count

    def receive_piece(self, dest: memoryview, is_last: bool) -> int:
        """One system call: up to the end of `dest`, and in its last piece a little of what follows, into scratch."""
        if is_last and not self._tls:
            self._lo = self._hi = 0
            count = self._sock.recvmsg_into((dest, self._view[:HEAD_BYTES]))[0]
            if count > len(dest):
                self._hi = count - len(dest)
                self.bytes_received += self._hi
                count = len(dest)
        else:
            count = self._sock.recv_into(dest)
        if not count:
            raise StreamClosedError(f"{self.peer} closed the connection in the middle of a value")
        self.bytes_received += count
        return count

    # ------------------------------------------------------------------------------------------------ sending

    async def send(self, data: bytes) -> None:
        """Sends all of `data`.

        Raises:
            StreamClosedError: the connection ended before.
        """
        await self.send_framed(data, memoryview(b""), None, bytes)

    async def send_framed(
        self, head: bytes, payload: memoryview, hasher: Hasher | None, tail: Callable[[], bytes]
    ) -> None:
        """Sends `head`, then `payload` straight from its memory, showing each piece to `hasher`, then `tail()`, which
        is asked for when the hasher has seen everything.

        Raises:
            StreamClosedError: the connection ended before; the peer may have received anything up to then.
        """
        operation = Sending(head, payload, hasher, tail)
        del payload  # a kept traceback keeps this frame, and must not keep the buffer
        await self._transfer(operation, reading=False)

    def send_pieces(self, pending: list[memoryview]) -> int:
        """One system call for the first of `pending`, or all of them."""
        count = self._sock.send(pending[0]) if self._tls else self._sock.sendmsg(pending)
        self.bytes_sent += count
        return count

    # ------------------------------------------------------------------------------------------------ the loop

    async def _transfer(self, operation: Operation, *, reading: bool) -> None:
        """Runs an operation to its end: at once where the socket is ready, otherwise from the loop's callbacks."""
        if self._lent:
            self._transfer_blocking(operation)
            return
        self.turns.transfers += 1
        try:
            if self._sock.fileno() < 0:
                raise StreamClosedError(f"the connection to {self.peer} is closed")
            moved = write = None
            try:
                moved = operation.step(self, self._budget)
            except BLOCKED as blocked:
                write = wants_write(blocked, reading)
            # Not inside the handler: what is raised later would carry the blocked call's frames, and so its buffer.
            if moved is None:
                await self._go_on_later(operation, reading, write)
                return
            # Data that is always there already would keep the loop from everything else: take turns.
            self._budget -= moved
            if self._budget <= 0:
                self._budget = self.turns.bytes_each()
                await asyncio.sleep(0)
        except OSError as error:
            raise self._failed(error) from error.with_traceback(None)
        except BaseException:
            self.close()
            raise
        finally:
            self.turns.transfers -= 1
            operation.release()

    def _transfer_blocking(self, operation: Operation) -> None:
        try:
            if self._is_ended:
                raise StreamClosedError(f"the connection to {self.peer} is closed")
            while operation.step(self, _WHOLE) is None:
                pass
        except OSError as error:
            raise self._failed(error) from error.with_traceback(None)
        except BaseException:
            self.close()
            raise
        finally:
            operation.release()

    async def _go_on_later(self, operation: Operation, reading: bool, write: bool | None) -> None:
        self._budget = self.turns.bytes_each()
        transfer = Transfer(self, operation, reading, self._loop.create_future())
        if write is None:
            self.take_turns(transfer)
        else:
            self.wait_for(transfer, write)
        try:
            await transfer.future
        finally:
            self._forget(transfer)

    def take_turns(self, transfer: Transfer) -> None:
        """Goes on with a transfer after other work of the loop."""
        if self._tls:
            self._loop.call_soon(transfer.go_on)  # decrypted bytes that wait inside OpenSSL make no event
        else:
            self.wait_for(transfer, not transfer.reading)

    def wait_for(self, transfer: Transfer, write: bool) -> None:
        """Goes on with a transfer when the socket is ready. The registration with the loop outlives the transfer: in a
        stream of replies the next one finds it in place."""
        if write:
            if self._reading is transfer:  # TLS may change its mind; the other direction must not spin
                self._reading = None
                self._stop_reader()
            self._writing = transfer
            if not self._writer_on:
                self._loop.add_writer(self._sock.fileno(), self._writable)
                self._writer_on = True
        else:
            if self._writing is transfer:
                self._writing = None
                self._stop_writer()
            self._reading = transfer
            if not self._reader_on:
                self._loop.add_reader(self._sock.fileno(), self._readable)
                self._reader_on = True

    def _forget(self, transfer: Transfer) -> None:
        if self._reading is transfer:
            self._reading = None
        if self._writing is transfer:
            self._writing = None
            # A socket is nearly always writable: without a transfer the registration would spin.
            self._stop_writer()

    def _readable(self) -> None:
        if self._reading is None:
            self._stop_reader()  # nobody reads just now: what came stays in the kernel
        else:
            self._reading.go_on()

    def _writable(self) -> None:
        if self._writing is None:
            self._stop_writer()
        else:
            self._writing.go_on()

    def _stop_reader(self) -> None:
        if self._reader_on:
            self._reader_on = False
            self._loop.remove_reader(self._sock.fileno())

    def _stop_writer(self) -> None:
        if self._writer_on:
            self._writer_on = False
            self._loop.remove_writer(self._sock.fileno())

    def _failed(self, error: OSError) -> StreamClosedError:
        if isinstance(error, StreamClosedError):
            last_words = error.last_words
        else:
            last_words = self._last_words()
        self.close()
        return StreamClosedError(
            str(error) if isinstance(error, StreamClosedError) else f"{self.peer}: {error}", last_words
        )

    def _last_words(self) -> bytes:
        """What the peer had said before it reset the connection: servers tell there why."""
        try:
            more = self._sock.recv(512, socket.MSG_DONTWAIT) if self._lent else self._sock.recv(512)
            return bytes(self._view[self._lo : self._hi]) + more
        except OSError:
            return b""

    # ---------------------------------------------------------------------------------------------- in a thread

    @property
    def is_lent(self) -> bool:
        """Whether a thread has it."""
        return self._lent

    @property
    def can_be_lent(self) -> bool:
        """Whether a thread may move this stream's bytes. TLS needs the loop: it reads in order to write, and back."""
        return not self._tls

    def lend(self) -> None:
        """From now on, until `take_back()`, this is a blocking stream that one other thread uses.

        Its methods then do not suspend. Here only `interrupt()` and `close()` may be called meanwhile.
        """
        self._stop_reader()
        self._stop_writer()
        self._lent = True
        if self._sock.fileno() < 0:
            self._is_ended = True
        else:
            self._sock.setblocking(True)

    def buffered_view(self) -> memoryview:
        """What is buffered. Valid until the next call."""
        return self._view[self._lo : self._hi]

    def fill_now(self, nbytes: int) -> memoryview:
        """`peek` for the thread that a stream is lent to, without the ceremony of a coroutine."""
        while self._hi - self._lo < nbytes:
            self._make_room(nbytes)
            self._transfer_blocking(Filling(SCRATCH_BYTES - self._hi))
        return self._view[self._lo : self._lo + nbytes]

    def receive_now(self, dest: memoryview, hasher: Hasher | None, ahead: int = HEAD_BYTES) -> None:
        """`receive_into` for the thread that a stream is lent to; reads at most `ahead` bytes of what follows."""
        update = hasher.update if hasher is not None else None
        receive = self._sock.recvmsg_into
        size = len(dest)
        position = min(self._hi - self._lo, size)
        if position:
            dest[:position] = self._view[self._lo : self._lo + position]
            self._lo += position
            if update is not None:
                update(dest[:position])
            if position == size:
                return
        self._lo = self._hi = 0
        scratch = self._view[:ahead]
        received = -position
        try:
            if self._is_ended:
                raise StreamClosedError(f"the connection to {self.peer} is closed")
            while position < size:
                rest = dest[position : position + PIECE_BYTES] if position or size > PIECE_BYTES else dest
                length = len(rest)
                if position + length == size:
                    count = receive((rest, scratch))[0]
                    if count > length:
                        self._hi = count - length
                        count = length
                else:
                    # A piece at a time, rather than as much as is there: fewer calls, each of which gives Python's lock
                    # away and has to get it back.
                    count = self._sock.recv_into(rest, 0, socket.MSG_WAITALL)
                if not count:
                    raise StreamClosedError(f"{self.peer} closed the connection in the middle of a value")
                position += count
                if update is not None:
                    update(rest if count == length else rest[:count])
            self.bytes_received += received + size + self._hi
        except OSError as error:
            raise self._failed(error) from error.with_traceback(None)
        finally:
            dest = rest = _NOTHING  # a kept traceback keeps this frame, and must not keep the buffer

    def interrupt(self) -> None:
        """Makes a lent stream fail, from any thread, whatever it waits for."""
        self._is_ended = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has ended it already

    def take_back(self) -> None:
        """Ends `lend()`; the thread must have let go."""
        self._lent = False
        if self._is_ended:
            self.close()
        else:
            self._sock.setblocking(False)

    # ------------------------------------------------------------------------------------------------- lifetime

    @property
    def is_open(self) -> bool:
        """Whether this end is open."""
        return not self._is_ended and self._sock.fileno() >= 0

    def is_quiet(self) -> bool:
        """Whether an idle stream can be used again: open at both ends, with nothing on it that nobody asked for."""
        if self._sock.fileno() < 0 or self.buffered:
            return False
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return False
        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLIN)
        if not poller.poll(0):
            return True
        if not self._tls:
            return False
        try:  # a TLS peer may send session tickets or key updates, which are not data
            self._sock.recv(1)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            pass
        return False  # data that nobody asked for, or the end

    def close(self) -> None:
        """Closes the socket at once. Idempotent. A transfer under way fails, and touches its buffer no more."""
        if self._lent:
            self.interrupt()  # the descriptor stays until the thread cannot use it any more
            return
        if self._sock.fileno() < 0:
            return
        self._stop_reader()
        self._stop_writer()
        for transfer in (self._reading, self._writing):
            if transfer is not None:
                self._loop.call_soon(transfer.go_on)  # it finds the socket closed and fails
        self._reading = self._writing = None
        self._sock.close()

    def __repr__(self) -> str:
        return f"<ByteStream to {self.peer}, {'open' if self.is_open else 'closed'}>"
