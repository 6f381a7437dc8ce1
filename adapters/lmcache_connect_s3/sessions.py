"""`ExpressSessions`: the short-lived credentials that S3 Express buckets take in place of the account's."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from lmcache_connect import AuthenticationError
from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.known_secrets import Holder, know

from .credentials import CredentialSource
from .documents import DocumentError, parse
from .http_connection import HTTPConnection, Pool
from .location import Location
from .refusals import MAX_ERROR_BYTES, refused
from .signer import ReadOnlyCredentials, Signer

_LASTS: Final = 240.0
"""Seconds for which a session is used. The store lets it expire after five minutes."""


class ExpressSessions:
    """Makes a session with the account's credentials, and another before it expires. Lives on one event loop."""

    def __init__(self, store: str, account: CredentialSource, location: Location, pool: Pool) -> None:
        self._store = store
        self._account = account
        self._location = location
        self._pool = pool
        self._session: ReadOnlyCredentials | None = None
        self._known: Holder | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def current(self) -> ReadOnlyCredentials | None:
        """Returns a session that is good now.

        Raises:
            AuthenticationError: there are no credentials, or the store refuses them.
            StoreError: the request for a session failed otherwise.
        """
        async with self._lock:
            if self._session is None or time.monotonic() >= self._until:
                self._session = await self._create()
                self._known = know(Holder(), self._session.secret_key, self._session.token)
                self._until = time.monotonic() + _LASTS
            return self._session

    async def refresh(self, refused: ReadOnlyCredentials | None) -> bool:
        """Makes another session, because the store refused `refused`. Returns whether it differs."""
        if self._session is refused:
            self._session = None
        return await self.current() != refused

    async def _create(self) -> ReadOnlyCredentials:
        credentials = await self._account.current()
        if credentials is None:
            raise AuthenticationError(self._store, "an S3 Express bucket cannot be used without credentials")
        headers = {"x-amz-create-session-mode": "ReadWrite"}
        request = Signer(self._location, credentials).head("GET", query={"session": ""}, headers=headers)
        async with self._pool.acquired() as connection:
            return await self._ask(connection, request)

    async def _ask(self, connection: HTTPConnection, request: bytes) -> ReadOnlyCredentials:
        await connection.request(request)
        head = await connection.read_head("GET")
        if head.status != 200:
            raise await refused(connection, head, "CreateSession")
        document = await connection.read_body(head, MAX_ERROR_BYTES)
        try:
            root = parse(document)
        except DocumentError as error:
            raise StoreProtocolError(self._store, f"CreateSession: the server answers {error}") from None
        for found in root.all("Credentials"):
            parts = [found.find(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
            if all(part and part.isascii() and part.isprintable() for part in parts):
                return ReadOnlyCredentials(*parts)
        raise StoreProtocolError(self._store, "CreateSession: the server answers without credentials")
