"""`RequestSource`: what a connector makes its requests with. `CallRequests`: the same for one call."""

from __future__ import annotations

from .credentials import CredentialSource
from .location import Location
from .options import S3Options
from .requests import Requests
from .sessions import ExpressSessions
from .signer import Signer
from .transfers import Pool


class RequestSource:
    """Signs with the credentials that are good now. Lives on one event loop. Reads no credentials before first use."""

    def __init__(self, store: str, location: Location, options: S3Options, lookups: Pool) -> None:
        """`lookups` has connections for the requests that make the sessions of an S3 Express bucket."""
        self._store = store
        self._options = options
        self._lookups = lookups
        self._account = CredentialSource(store, options)
        self._credentials: CredentialSource | ExpressSessions = self._account
        self._signer: Signer | None = None
        self.location = location
        """Where requests go. Its region is known after the first `current()`."""

    async def current(self) -> Requests:
        """Returns what to make requests with now.

        Raises:
            AuthenticationError: there are no credentials, or they cannot be renewed.
        """
        if self._signer is None:
            await self._account.current()  # finds the region that the environment or the profile names
            if self._signer is None:  # no other call did the same meanwhile
                self._signer = self._made_signer()
        return Requests(self._store, self._signer, await self._credentials.current())

    def _made_signer(self) -> Signer:
        location = self.location = self.location.in_region(self._account.region)
        pays = self._options.requester_pays
        if location.is_express:
            plain = Signer(location, pays, session=False)
            self._credentials = ExpressSessions(self._store, self._account, plain, self._lookups)
        return Signer(location, pays)

    async def renew(self, refused: Requests) -> bool:
        """Gets other credentials, because the store calls those of `refused` expired. Returns whether there are any."""
        return await self._credentials.refresh(refused.credentials)

    def close(self) -> None:
        """Stops what it does in the background."""
        self._account.close()


class CallRequests:
    """What the jobs of one call make requests with: the same credentials, until the store calls them expired."""

    def __init__(self, source: RequestSource, requests: Requests) -> None:
        self._source = source
        self.current = requests

    async def renew(self) -> bool:
        """Gets other credentials. Returns whether there are any."""
        if not await self._source.renew(self.current):
            return False
        self.current = await self._source.current()
        return True
