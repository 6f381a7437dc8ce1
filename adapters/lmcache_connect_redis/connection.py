"""One connection to a Redis server: redis-py sets it up, then its byte stream is ours."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias, cast

from pydantic import SecretStr

from lmcache_connect import (
    AuthenticationError,
    CertificateError,
    MissingExtraError,
    StoreError,
    StoreLoadingError,
    StoreProtocolError,
    StoreUnavailableError,
)
from lmcache_connect.transport import ByteStream, StreamClosedError, TLSSettingsError
from lmcache_connect.transport.pool import ConnectionPool

from .replies import reply_error

try:
    import redis.exceptions
    from redis.asyncio.connection import AbstractConnection
except ImportError as missing:
    raise MissingExtraError("the Redis connector", "redis", "redis") from missing


CLIENT_NAME: Final = "lmcache-connect"
MAX_LINE_BYTES: Final = 4096
_NUMBER: Final = re.compile(rb"-?[0-9]{1,19}")

Dial = Callable[[], Awaitable[ByteStream]]


class _Reader:
    """What redis-py's parsers ask of a `StreamReader`, over a `ByteStream`."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def read(self, limit: int) -> bytes:
        return await self._stream.read_some(limit)

    def at_eof(self) -> bool:
        return not self._stream.is_open


class _Writer:
    """What redis-py's connection asks of a `StreamWriter`, over a `ByteStream`."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._pending: list[bytes] = []

    def writelines(self, parts: Iterable[bytes]) -> None:
        self._pending.extend(bytes(part) for part in parts)

    async def drain(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        await self._stream.send(data)

    def close(self) -> None:
        self._stream.close()

    async def wait_closed(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class _SetUp(AbstractConnection):
    """redis-py's connection on a `ByteStream`: it authenticates, names itself and selects the database.

    Protocol 2, because with RESP3's push messages an unsolicited reply could be taken for the next command's.
    """

    def __init__(self, dial: Dial, store: str, username: str | None, password: str | None, db: int) -> None:
        self._dial = dial
        self._store = store
        super().__init__(
            db=db,
            username=username,
            password=password,
            client_name=CLIENT_NAME,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=None,
        )

    async def _connect(self) -> None:
        stream = await self._dial()
        self.stream = stream
        self._reader = cast(Any, _Reader(stream))
        self._writer = cast(Any, _Writer(stream))

    def _host_error(self) -> str:
        return self._store

    def repr_pieces(self) -> Any:  # redis-py declares None and returns a list
        return [("store", self._store), ("db", self.db)]

    def release_stream(self) -> ByteStream:
        """The stream, which this object then has no part in any more."""
        self._parser.on_disconnect()  # type: ignore[no-untyped-call]  # redis-py's
        self._reader = self._writer = None
        return self.stream


class Connection:
    """A connection that is ready for commands. `pending` counts replies that were asked for and not yet taken.

    One with pending replies cannot be reused by anybody else: it is closed rather than given back.
    """

    __slots__ = ("is_suspect", "pending", "store", "stream")

    def __init__(self, stream: ByteStream, store: str) -> None:
        self.stream = stream
        self.store = store
        self.pending = 0
        self.is_suspect = False

    @property
    def is_reusable(self) -> bool:
        """Whether the next user finds the stream where a command may start."""
        return self.pending == 0 and not self.is_suspect and self.stream.is_open and not self.stream.buffered

    async def send(self, command: bytes, replies: int = 1) -> None:
        """Sends one or several commands, encoded."""
        self.pending += replies
        await self.stream.send(command)

    async def read_header(self) -> bytes:
        """The next reply's first line, its type byte included; an error reply is returned as well."""
        line = await self.stream.read_until_crlf(MAX_LINE_BYTES)
        if not line or line[:1] not in b"+-:$*":
            self.stream.close()
            raise StoreProtocolError(self.store, f"a reply cannot start with {line[:20]!r}")
        return line

    async def read_integer(self) -> int:
        """An integer reply. Raises the typed error of an error reply."""
        line = await self.read_header()
        if line[:1] != b":":
            raise self.unexpected(line, "an integer")
        self.pending -= 1
        return self.number(line)

    async def read_status(self) -> str:
        """A status reply such as `OK`. Raises the typed error of an error reply."""
        line = await self.read_header()
        if line[:1] != b"+":
            raise self.unexpected(line, "a status")
        self.pending -= 1
        return line[1:].decode("utf-8", "replace")

    async def read_array(self, limit: int, item_limit: int) -> list[bytes]:
        """A flat array of strings of at most `item_limit` bytes each and `limit` bytes in all."""
        count = self.number(await self.expect(b"*", "an array"))
        if not 0 <= count <= limit // 16:
            raise self.broken(f"an array of {count} items; expected at most {limit // 16}")
        items: list[bytes] = []
        total = 0
        for _ in range(count):
            items.append(await self.read_string(item_limit))
            total += len(items[-1]) + 16
            if total > limit:
                raise self.broken(f"an array of {count} items of more than {limit} bytes in all")
        return items

    async def read_string(self, limit: int) -> bytes:
        """A string inside an array, of at most `limit` bytes (`SCRATCH_BYTES` at the most)."""
        size = self.number(await self.expect(b"$", "a string"))
        if not 0 <= size <= limit:
            raise self.broken(f"a string of {size} bytes; expected at most {limit}")
        text = bytes((await self.stream.peek(size + 2))[:size])
        self.stream.take(size + 2)
        return text

    async def expect(self, kind: bytes, name: str) -> bytes:
        """The next line, which must be of one type."""
        line = await self.read_header()
        if line[:1] != kind:
            raise self.unexpected(line, name)
        return line

    def number(self, line: bytes) -> int:
        """The number behind a line's type byte."""
        if _NUMBER.fullmatch(digits := line[1:]) is None:
            raise self.broken(f"{line[:40]!r} holds no number")
        return int(digits)

    def unexpected(self, line: bytes, expected: str) -> StoreError:
        """The error for a reply of another type: an error reply's own, with which the stream stays usable."""
        if line[:1] == b"-":
            self.pending -= 1
            return reply_error(self.store, line[1:].decode("utf-8", "replace"))
        return self.broken(f"{line[:40]!r} is not {expected}")

    def broken(self, reason: str) -> StoreProtocolError:
        """Closes the stream: what follows on it cannot be understood."""
        self.stream.close()
        return StoreProtocolError(self.store, f"the server's reply breaks the protocol: {reason}")

    def close(self) -> None:
        """Closes the stream at once."""
        self.stream.close()


def lost_connection(store: str, error: StreamClosedError) -> StoreUnavailableError:
    """The error for a connection that was lost, with what the server said last, if it was for people."""
    # Only an error reply is for people; anything else may be the rest of a record.
    said = error.last_words.partition(b"\r\n")[0][1:200] if error.last_words.startswith(b"-") else b""
    hint = f" (the server said before: {ascii(said.decode('utf-8', 'replace'))[1:-1]})" if said else ""
    return StoreUnavailableError(store, f"{error}{hint}")


Connections: TypeAlias = ConnectionPool[Connection]
"""A pool of them."""


async def open_connection(
    dial: Dial, store: str, username: str | None, password: SecretStr | None, db: int, ca: str
) -> Connection:
    """Connects, authenticates and selects the database. The caller sets the deadline.

    Raises:
        StoreUnavailableError, AuthenticationError, CertificateError, and what else the server answers.
    """
    setup = _SetUp(dial, store, username, password.get_secret_value() if password is not None else None, db)
    try:
        await setup.connect()  # type: ignore[no-untyped-call]  # redis-py's
        return Connection(setup.release_stream(), store)
    except BaseException as error:
        if setup.is_connected:
            setup.release_stream().close()
        if isinstance(error, redis.exceptions.RedisError):
            # Not from it: a server, or something that looks like one, may have repeated the credentials.
            raise _translated(error, store, ca, _Veil(username, password)) from None
        if isinstance(error, OSError):
            raise StoreUnavailableError(store, str(error)) from error
        raise


class _Veil:
    """Hides the credentials wherever they stand in a text from the server."""

    def __init__(self, username: str | None, password: SecretStr | None) -> None:
        secret = password.get_secret_value() if password is not None else ""
        self._hidden = [text for text in (secret, username or "") if text]

    def __call__(self, text: object) -> str:
        shown = str(text)
        for hidden in self._hidden:
            shown = shown.replace(hidden, "***")
        return shown


def _translated(error: redis.exceptions.RedisError, store: str, ca: str, veil: _Veil) -> StoreError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateError(
                store, f"the server's certificate does not verify against {ca}: {cause.verify_message}"
            )
        if isinstance(cause, ssl.SSLError):
            return StoreUnavailableError(store, f"the TLS handshake failed: {cause.reason or cause}")
        if isinstance(cause, TLSSettingsError):
            return CertificateError(store, str(cause))
        if isinstance(cause, StreamClosedError):
            return StoreUnavailableError(store, str(cause))  # without what redis-py wraps around it
    if isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.AuthorizationError):
        return AuthenticationError(store, f"the server refuses the credentials (it said: {veil(error)})")
    if isinstance(error, redis.exceptions.NoPermissionError):
        return AuthenticationError(store, f"the user may not do this (the server said: {veil(error)})")
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return StoreLoadingError(store, "the server is loading its data and answers when that is done")
    if isinstance(error, redis.exceptions.ResponseError):
        return reply_error(store, veil(error))
    return StoreUnavailableError(store, veil(error))


def _causes(error: BaseException) -> Iterable[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
