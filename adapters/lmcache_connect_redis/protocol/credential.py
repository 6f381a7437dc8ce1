"""`Credential`: a user and a password, and the one that a server's connections are to be logged in with by now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydantic import SecretStr

from lmcache_connect.known_secrets import clean_foreign

_REST_SECONDS: Final = 4.0
"""For how long open connections are not logged in with a credential that the server has refused."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a connection logs in with. Never changes: a source of credentials that change gives another one.

    Attributes:
        username, password: None where the server is not told any.
    """

    username: str | None = None
    password: SecretStr | None = None

    @property
    def secret(self) -> str:
        """The password as text; empty without one."""
        return self.password.get_secret_value() if self.password is not None else ""

    def is_like(self, other: Credential) -> bool:
        """Whether the server would see no difference between the two."""
        return (self.username, self.password) == (other.username, other.password)

    def hide(self, text: str) -> str:
        """Returns what may be shown of a server's words while it is told the credential: not even the user's name."""
        return clean_foreign(text, self.username)


class NewestCredential:
    """The newest credential of a source, for all servers. Written on the event loop, and read in any thread."""

    __slots__ = ("credential",)

    def __init__(self, credential: Credential) -> None:
        self.credential = credential


class _Substitute(NamedTuple):
    """What a server takes in the place of a newest credential that it has refused, and until when that one rests."""

    newest: Credential
    taken: Credential
    until: float


class LatestCredential:
    """The credential that the connections to one server are to be logged in with. Those with another one log in again.

    It is the newest of its source, unless the server has refused that. Servers of one password are told of another one
    after each other, so each of them has a latest credential of its own. Written on the event loop, and read in any
    thread.
    """

    __slots__ = ("_newest", "_substitute")

    def __init__(self, newest: NewestCredential) -> None:
        self._newest: Final = newest
        self._substitute: _Substitute | None = None

    @property
    def credential(self) -> Credential:
        newest, substitute = self._newest.credential, self._substitute
        if substitute is None or substitute.newest is not newest or time.monotonic() >= substitute.until:
            return newest
        return substitute.taken

    def took(self, taken: Credential, refused: Sequence[Credential]) -> None:
        """The server has taken a credential, after it had refused others."""
        newest = self._newest.credential
        is_refused = any(each is newest for each in refused)
        self._substitute = _Substitute(newest, taken, time.monotonic() + _REST_SECONDS) if is_refused else None
