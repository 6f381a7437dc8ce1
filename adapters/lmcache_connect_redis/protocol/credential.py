"""`Credential`: a user and a password, and the latest one of those that come from one source."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from lmcache_connect.known_secrets import clean_foreign


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


class LatestCredential:
    """The credential that connections are to be logged in with by now. Those with another one log in again.

    Written on the event loop, and read in any thread.
    """

    __slots__ = ("credential",)

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
