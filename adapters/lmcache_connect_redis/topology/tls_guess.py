"""`TLSGuess`: finds out whether a server that gives no answer was asked in the wrong way, with TLS or without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from lmcache_connect import StoreUnavailableError
from lmcache_connect.errors import StoreStalledError, TLSMismatchError
from lmcache_connect.transport import CertificateRefusedError, StreamClosedError, TLSSettings, open_tcp_stream

from ..protocol.setup import speaks_no_tls, speaks_tls

T = TypeVar("T")

_SILENCE: Final = 0.4
"""Seconds without an answer after which the server is asked in the other way. One in time answers much sooner."""

_ASKING: Final = 0.4
"""Seconds that this may take where the connection has failed: its error waits for it."""

_PING: Final = b"PING\r\n"


class TLSGuess:
    """Asks a server that is silent in the other way, over another connection, until one was opened successfully.

    A server without TLS takes the beginning of a handshake for an unfinished command, and waits. Some servers with TLS
    wait for a long time before they close a connection on which something else has come. Either would cost the whole
    deadline, and nobody would know why. It is told nothing but PING, or the first words of a handshake.
    """

    def __init__(self, store: str, host: str, port: int, *, is_tls: bool) -> None:
        """`is_tls`: whether the URL says that the server speaks TLS."""
        self._store: Final = store
        self._address: Final = (host, port)
        self._is_tls: Final = is_tls
        self._is_proven = False

    async def watch(self, opening: Callable[[], Awaitable[T]]) -> T:
        """Returns what `opening()` returns.

        Raises:
            TLSMismatchError: the server would have answered with TLS, or without it. What `opening` raises.
        """
        if self._is_proven:
            return await opening()
        found: list[TLSMismatchError] = []
        with anyio.CancelScope() as scope:
            asking = asyncio.get_running_loop().create_task(self._ask_in_time(found, scope))
            try:
                opened = await opening()
            except StoreUnavailableError as error:
                if isinstance(error, StoreStalledError):
                    raise  # it was silent, and was asked
                asking.cancel()
                with anyio.move_on_after(_ASKING):
                    await self._ask(found)
                if not found:
                    raise
            else:
                self._is_proven = True
                return opened
            finally:
                asking.cancel()
        raise found[0]

    async def _ask_in_time(self, found: list[TLSMismatchError], scope: anyio.CancelScope) -> None:
        await asyncio.sleep(_SILENCE)
        await self._ask(found)
        if found:
            scope.cancel()

    async def _ask(self, found: list[TLSMismatchError]) -> None:
        """Adds an error to `found`, where the server answers what it is asked in the other way."""
        if self._is_tls:
            if await self._answers_ping():
                found.append(speaks_no_tls(self._store))
        elif await self._answers_handshake():
            found.append(speaks_tls(self._store))

    async def _answers_ping(self) -> bool:
        try:
            stream = await open_tcp_stream(*self._address)
        except StreamClosedError:
            return False
        try:
            await stream.send(_PING)
            return (await stream.read_some(1)) in {b"+", b"-"}
        except StreamClosedError:
            return False
        finally:
            stream.close()

    async def _answers_handshake(self) -> bool:
        try:
            # Nothing is said over this connection, so it does not matter who the server is.
            stream = await open_tcp_stream(*self._address, TLSSettings(verify=False))
        except CertificateRefusedError:
            return True
        except StreamClosedError:
            return False
        stream.close()
        return True
