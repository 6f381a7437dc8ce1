"""`Signing`: signers with the credentials that are good now. `CallSigner`: the one that a call's requests share."""

from __future__ import annotations

from lmcache_connect.outside import Lane

from .credentials import CredentialSource
from .http_connection import Pool
from .location import Location
from .options import S3Options
from .sessions import ExpressSessions
from .signer import Signer


class Signing:
    """Makes the signers of one connector. Lives on one event loop. Looks for credentials on first use."""

    def __init__(self, store: str, location: Location, options: S3Options, lookups: Pool, lane: Lane) -> None:
        """`lane` is where the chain of credentials is asked. `lookups` has connections for the requests that make the
        sessions of an S3 Express bucket.
        """
        self.location = location
        """Where requests go. Its region is known after the first `current()`."""
        self._requester_pays = options.requester_pays
        self._account = CredentialSource(store, options, lane)
        self._sessions = ExpressSessions(store, self._account, location, lookups) if location.is_express else None
        self._last: Signer | None = None

    async def current(self) -> Signer:
        """Returns a signer whose credentials are good now.

        Raises:
            AuthenticationError: there are no credentials, or they cannot be renewed.
        """
        credentials = await (self._sessions or self._account).current()
        if self._last is None or self._last.credentials is not credentials:
            self.location = self.location.in_region(self._account.region)
            self._last = Signer(
                self.location,
                credentials,
                requester_pays=self._requester_pays,
                session=self._sessions is not None,
            )
        return self._last

    async def renew(self, refused: Signer) -> bool:
        """Gets other credentials, because the store calls those of `refused` expired. Returns whether there are any."""
        return await (self._sessions or self._account).refresh(refused.credentials)

    def close(self) -> None:
        """Stops what it does in the background."""
        self._account.close()


class CallSigner:
    """The signer that the requests of one call share. Another takes its place if the store calls it expired."""

    def __init__(self, signing: Signing, first: Signer) -> None:
        self._signing = signing
        self.current = first

    async def renew(self) -> bool:
        """Gets other credentials. Returns whether there are any."""
        if not await self._signing.renew(self.current):
            return False
        self.current = await self._signing.current()
        return True
