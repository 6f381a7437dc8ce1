"""`PasswordFile`: a user, and a password in the first line of a file that may be replaced while the process runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from pydantic import SecretStr

from lmcache_connect import AuthenticationError
from lmcache_connect.errors import AbandonedCallsError
from lmcache_connect.known_secrets import know_login
from lmcache_connect.observability import read_secret_file
from lmcache_connect.outside import Lane

from ..protocol.credential import Credential
from .credentials import Credentials

UNREADABLE: Final = (OSError, IndexError, UnicodeDecodeError)
"""What reading a password from a file may raise."""

_WRITING_SECONDS: Final = 0.25
"""For how long a file that was emptied may stay so: what writes it in its place is about to go on."""

_LOOK_SECONDS: Final = 0.01

_AT_ONCE: Final = 4
"""Readings that may hang at the same time, on a file system that does not answer. Further ones fail at once."""


class PasswordFile(Credentials):
    """Reads the file again for every connection, and once more where the server refuses what it says.

    Connections that are open stay as they are: a server that changes a user's password lets them live. Where a server
    does not take the new password yet, the one before is tried. Another server may have taken the new one by then.
    """

    def __init__(self, store: str, username: str | None, file: str, lane: Lane, option: str) -> None:
        """Reads the file once, to find out whether that is possible. `option` is the URL's name for it.

        Later it is read in threads of a branch of `lane`.

        Raises:
            OSError, IndexError, UnicodeDecodeError: it cannot be read, has no line, or is not a text.
        """
        self._store = store
        self._username = username
        self._file = file
        self._option = option
        self._lane = lane.branch(f"{store} {option}", _AT_ONCE)
        self._credential = self._credential_of(_first_line(file))
        self._previous: Credential | None = None

    async def current(self) -> Credential:
        """Returns what the file says now. It is read in a thread, which a cancelled caller does not wait for."""
        try:
            password = await self._lane.run_in_thread(
                f"the file of ?{self._option}=", partial(_line_in_time, self._file)
            )
        except AbandonedCallsError:
            raise AuthenticationError(
                self._store, f"{_AT_ONCE} earlier readings of the file of ?{self._option}= still hang"
            ) from None
        except UNREADABLE as error:
            raise AuthenticationError(
                self._store,
                f"the file of ?{self._option}= cannot be read ({type(error).__name__}); expected one line",
            ) from None
        if password != self._credential.secret:
            self._previous, self._credential = self._credential, self._credential_of(password)
        return self._credential

    async def after_refusal(self, refused: Credential) -> Sequence[Credential]:
        """Reads the file again. Returns what it says, and what it said before it changed."""
        newest = await self.current()
        return (newest,) if self._previous is None else (newest, self._previous)

    def close(self) -> None:
        self._lane.close()

    def _credential_of(self, password: str) -> Credential:
        return Credential(self._username, know_login(SecretStr(password), self._username, password))


def _line_in_time(file: str) -> str:
    """Returns the first line. Blocks for a moment where there is none yet."""
    ends = time.monotonic() + _WRITING_SECONDS
    while True:
        try:
            return _first_line(file)
        except IndexError:
            if time.monotonic() >= ends:
                raise
        time.sleep(_LOOK_SECONDS)


def _first_line(file: str) -> str:
    return read_secret_file(file).decode("utf-8").splitlines()[0]
