"""`Credentials`: where the user and the password of a URL come from, for every server that the URL stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from lmcache_connect import AuthenticationError

from ..protocol.credential import Credential, LatestCredential

T = TypeVar("T")

_TRIES: Final = 3
"""Credentials that are tried for one connection: the one at hand, one that has replaced it, and the one before it."""


class Credentials(ABC):
    """One source of credentials, which all connections of a connector share. Lives on its event loop.

    What opens a connection calls `log_in`.
    """

    async def log_in(
        self, open_connection: Callable[[Credential], Awaitable[T]], latest: LatestCredential | None = None
    ) -> T:
        """Opens a connection with the current credential, and where the server refuses that, with another one.

        `latest` is that of the server, from `new_latest`.

        Raises:
            AuthenticationError: a credential is missing, or the server refuses all of them.
            What else `open_connection` raises.
        """
        credential = await self.current()
        refused: list[Credential] = []
        while True:
            try:
                connection = await open_connection(credential)
            except AuthenticationError:
                refused.append(credential)
                if len(refused) == _TRIES or (other := await self._other(refused)) is None:
                    raise
                credential = other
            else:
                self.accepted(credential)
                if latest is not None:
                    latest.took(credential, refused)
                return connection

    async def _other(self, refused: Sequence[Credential]) -> Credential | None:
        others = await self.after_refusal(refused[-1])
        return next((other for other in others if not any(other.is_like(each) for each in refused)), None)

    def new_latest(self) -> LatestCredential | None:
        """Where the connections to one server find what they are to log in with by now; None: they stay as they are."""
        return None

    @abstractmethod
    async def current(self) -> Credential:
        """Returns a credential that is good now, as far as is known.

        Raises:
            AuthenticationError: it has no such credential.
        """

    async def after_refusal(self, refused: Credential) -> Sequence[Credential]:
        """Returns the credentials that may be good, since a server has refused this one. It may be among them.

        The best comes first.

        Raises:
            AuthenticationError: the source cannot be asked.
        """
        return ()

    def accepted(self, credential: Credential) -> None:  # noqa: B027  # most sources make no use of it
        """A server has taken a credential."""

    def close(self) -> None:  # noqa: B027  # most sources have nothing to end
        """Ends what goes on in the background. Idempotent."""


class FixedCredentials(Credentials):
    """A credential that never changes: the URL's, that of an environment variable, or none."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def current(self) -> Credential:
        return self._credential
