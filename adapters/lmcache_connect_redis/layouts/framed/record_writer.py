"""`RecordWriter`: sends records over a connection, straight from the memory that their chunks have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.errors import StoreFullError, ValueTooLargeError
from lmcache_connect.record import (
    MAX_HEADER_BYTES,
    NO_CHECKSUM_TRAILER,
    TRAILER_BYTES,
    PayloadHasher,
    StripePlan,
    encode_header,
    payload_trailer,
)
from lmcache_connect.streaming import ChunkBytes

from ...options import RedisOptions
from ...protocol.connection import Connection
from ...protocol.redirects import RedirectedError, RedirectionsError
from ...protocol.replies import NoSuchKeyError, encode_command, encode_expiry
from ...protocol.transaction import EXEC, MULTI, read_transaction, replies_of

STAGING_MS: Final = 60_000
"""How long an unfinished chunk lives in the store, in milliseconds, after its last piece was written. So what a writer
that died has left goes away."""

_PIECE_COMMANDS: Final = 3
_PIECE_DONE: Final = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n:1\r\n:1\r\n:"
"""How the replies to a piece begin where all is well. The number of pieces that the chunk has then follows."""

_COMMIT_COMMANDS: Final = 2


class RecordWriter:
    """Sends whole chunks, and the pieces of striped ones, as records of one store. Holds no connection."""

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._store = store
        self._checksum = options.checksum
        self._limit = options.max_value_bytes
        self._ttl_ms = options.ttl_ms
        self._expiry = encode_expiry(options.ttl_ms)
        self._words = 3 + self._expiry.count(b"$")

    # ----------------------------------------------------------------------------------------------- whole chunks

    def check_size(self, name: str, obj: ChunkBytes) -> None:
        """Raises `ValueTooLargeError` if a chunk does not fit one value."""
        nbytes = obj.get_size() + TRAILER_BYTES
        if nbytes + MAX_HEADER_BYTES > self._limit:
            nbytes += len(encode_header(name, obj.metadata))
            if nbytes > self._limit:
                raise ValueTooLargeError(self._store, nbytes, self._limit)

    async def send_whole(self, connection: Connection, name: str, obj: ChunkBytes) -> None:
        """Sends a whole chunk. Its one reply is a status."""
        nbytes = obj.get_size()
        connection.pending += 1
        hasher, tail = self._ending(self._expiry)
        head = self._head_of_whole(name, obj, nbytes)
        await connection.stream.send_framed(head, obj.views_of(0, nbytes), hasher, tail)

    async def send_several(self, connection: Connection, names: Sequence[str], objs: Sequence[ChunkBytes]) -> None:
        """Sends whole chunks by one system call, where they are few and small. Each has one reply, a status.

        What this takes from Python for one chunk is a third of what `send_whole` does: see `docs/speed.md`.
        """
        # No view is kept here: a frame lives on while the rest of a recalled payload goes out from a copy.
        sending = connection.stream.send_pieces(self._pieces_of_several(names, objs))
        connection.pending += len(objs)
        await sending

    def _pieces_of_several(self, names: Sequence[str], objs: Sequence[ChunkBytes]) -> list[memoryview]:
        pieces: list[memoryview] = []
        between = b""
        for name, obj in zip(names, objs, strict=True):
            nbytes = obj.get_size()
            pieces.append(memoryview(between + self._head_of_whole(name, obj, nbytes)))
            views = obj.views_of(0, nbytes)
            pieces += views
            trailer = payload_trailer(views) if self._checksum else NO_CHECKSUM_TRAILER
            between = b"%b\r\n%b" % (trailer, self._expiry)
        pieces.append(memoryview(between))
        return pieces

    def _head_of_whole(self, name: str, obj: ChunkBytes, nbytes: int) -> bytes:
        header = encode_header(name, obj.metadata, checksum=self._checksum)
        key = name.encode()
        return b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
            self._words,
            len(key),
            key,
            len(header) + nbytes + TRAILER_BYTES,
            header,
        )

    async def read_several_stored(self, connection: Connection, slots: Sequence[int]) -> None:
        """Takes the replies to `send_several` for the chunks of these slots.

        Raises:
            RedirectionsError: other nodes are to be asked for some of them. The others are stored.
            StoreError: the first one that the server refused, when all replies are taken.
        """
        if await connection.read_oks(len(slots)):
            return
        refused: StoreError | None = None
        redirected: dict[int, RedirectedError] = {}
        for slot in slots:
            try:
                await connection.read_ok()
            except RedirectedError as error:
                redirected[slot] = error
            except StoreError as error:
                if not connection.stream.is_open:
                    raise
                refused = refused or error
        if refused is not None:
            raise refused
        if redirected:
            raise RedirectionsError(self._store, redirected)

    # ---------------------------------------------------------------------------------------------------- pieces

    def check_piece_size(self, name: str, obj: ChunkBytes, plan: StripePlan) -> None:
        """Raises `ValueTooLargeError` if a piece does not fit one value."""
        size = len(encode_header(name, obj.metadata, plan=plan)) + plan.stripe_size + TRAILER_BYTES
        if size > self._limit:
            raise ValueTooLargeError(self._store, size, self._limit)

    async def send_piece(
        self, connection: Connection, name: str, staging: str, obj: ChunkBytes, plan: StripePlan, index: int
    ) -> None:
        """Sends piece `index` of the chunk `name`, which is written under `staging`. For `read_piece_stored`.

        Writing the piece, setting the time to live and counting the pieces are one transaction. So the chunk never
        stands there without a time to live, also where the server evicts it between two pieces.
        """
        start, end = plan.bounds(index)
        header = encode_header(name, obj.metadata, checksum=self._checksum, plan=plan, index=index)
        key = staging.encode()
        field = b"%d" % index
        head = b"%b*4\r\n$4\r\nHSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
            MULTI,
            len(key),
            key,
            len(field),
            field,
            len(header) + end - start + TRAILER_BYTES,
            header,
        )
        hasher, tail = self._ending(
            encode_command(b"PEXPIRE", key, b"%d" % STAGING_MS) + encode_command(b"HLEN", key) + EXEC
        )
        connection.pending += replies_of(_PIECE_COMMANDS)
        await connection.stream.send_framed(head, obj.views_of(start, end), hasher, tail)

    async def read_piece_stored(self, connection: Connection) -> int:
        """Takes the replies to `send_piece`. Returns how many pieces the chunk had when this one was there.

        Raises:
            TransactionRefusedError, StoreError: the piece was not stored.
        """
        stream = connection.stream
        if stream.buffered < len(_PIECE_DONE):
            await stream.peek_available(1)
        if bytes(stream.buffered_view()[: len(_PIECE_DONE)]) == _PIECE_DONE:
            stream.take(len(_PIECE_DONE) - 1)
            connection.pending -= replies_of(_PIECE_COMMANDS) - 1
            return await connection.read_integer()
        _, _, held = await read_transaction(connection, _PIECE_COMMANDS)
        return connection.number(held)

    async def send_commit(self, connection: Connection, name: str, staging: str) -> None:
        """Puts a chunk that is complete in its place, with its own time to live. For `read_committed`."""
        key = staging.encode()
        if self._ttl_ms is None:
            lasting = encode_command(b"PERSIST", key)
        else:
            lasting = encode_command(b"PEXPIRE", key, b"%d" % self._ttl_ms)
        commands = lasting + encode_command(b"RENAME", key, name.encode())
        await connection.send(MULTI + commands + EXEC, replies=replies_of(_COMMIT_COMMANDS))

    async def read_committed(self, connection: Connection) -> None:
        """Takes the replies to `send_commit`.

        Raises:
            StoreFullError: the chunk has gone meanwhile. Nothing was replaced.
            TransactionRefusedError, StoreError: nothing was replaced.
        """
        try:
            lasting, renamed = await read_transaction(connection, _COMMIT_COMMANDS)
        except NoSuchKeyError:
            raise self.evicted() from None
        if lasting != b":1" or renamed != b"+OK":
            raise connection.broken(f"a commit answers {connection.shown(lasting)} and {connection.shown(renamed)}")

    def evicted(self) -> StoreFullError:
        """Returns the error for a chunk of which the server lost pieces while it was written."""
        return StoreFullError(
            self._store,
            "the server evicted the chunk while it was written, unless a failover lost its pieces; raise maxmemory, "
            "or send fewer puts at a time",
        )

    def _ending(self, rest: bytes) -> tuple[PayloadHasher | None, Callable[[], bytes]]:
        """Returns what hashes a payload, and what makes the bytes that follow it: trailer, CR LF and `rest`."""
        if not self._checksum:
            return None, lambda: b"%b\r\n%b" % (NO_CHECKSUM_TRAILER, rest)
        hasher = PayloadHasher()
        return hasher, lambda: b"%b\r\n%b" % (hasher.trailer(), rest)
