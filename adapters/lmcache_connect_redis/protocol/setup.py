"""Opening a connection: redis-py authenticates over our stream, and hands the stream over."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, cast

from pydantic import SecretStr

from lmcache_connect import AuthenticationError, StoreError, StoreUnavailableError
from lmcache_connect.errors import CertificateError, MissingExtraError, StoreLoadingError
from lmcache_connect.transport import Stream, StreamClosedError, TLSSettingsError

from .connection import Connection
from .replies import reply_error

CLIENT_NAME: Final = "lmcache-connect"


try:
    import redis.exceptions
    from redis.asyncio.connection import AbstractConnection
except ImportError as missing:
    raise MissingExtraError("the Redis connector", "redis", "redis") from missing

Dial = Callable[[], Awaitable[Stream]]


class _Reader:
    """What redis-py's parsers ask of a `StreamReader`, over a `Stream`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def read(self, limit: int) -> bytes:
        return await self._stream.read_some(limit)

    def at_eof(self) -> bool:
        return not self._stream.is_open


class _Writer:
    """What redis-py's connection asks of a `StreamWriter`, over a `Stream`."""

    def __init__(self, stream: Stream) -> None:
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
    """redis-py's connection on a `Stream`: it authenticates, names itself and selects the database.

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

    def release_stream(self) -> Stream:
        """Returns the stream, and lets go of it."""
        self._parser.on_disconnect()  # type: ignore[no-untyped-call]  # redis-py's
        self._reader = self._writer = None
        return self.stream


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
