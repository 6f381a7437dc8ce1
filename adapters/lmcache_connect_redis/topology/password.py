"""`PasswordSource`: where a URL's password comes from. A file is read again for every connection."""

from __future__ import annotations

import os

from anyio import to_thread
from pydantic import SecretStr

from lmcache_connect import AuthenticationError, RemoteURL
from lmcache_connect.errors import InvalidOptionError
from lmcache_connect.known_secrets import know_login
from lmcache_connect.observability import read_secret_file

from ..options import RedisOptions

_Unreadable = (OSError, KeyError, IndexError, UnicodeDecodeError)


class PasswordSource:
    """The password in the URL, in a file, in an environment variable, or none."""

    def __init__(self, url: RemoteURL, options: RedisOptions) -> None:
        """Reads the password once, to find out whether that is possible.

        Raises:
            InvalidOptionError: the file or the variable cannot be read; its content is not shown.
        """
        self._store = url.label()
        self._file = options.password_file
        self._user = url.username
        self._fixed = url.password
        for option, source in (("password_file", options.password_file), ("password_env", options.password_env)):
            if source is None:
                continue
            if url.password is not None:
                raise InvalidOptionError(url.redacted(), option, "***", "no password in the URL besides it")
            is_file = option == "password_file"
            try:
                self._fixed = self._known(_read(source) if is_file else os.environ[source])
            except _Unreadable as error:
                file = f"the path of a file with the password in its first line ({type(error).__name__})"
                variable = "the name of an environment variable that is set to the password, not the password itself"
                raise InvalidOptionError(url.redacted(), option, "***", file if is_file else variable) from None

    @property
    def may_change(self) -> bool:
        """Whether another reading may give another password."""
        return self._file is not None

    async def current(self) -> SecretStr | None:
        """Returns the password as it is now. A file is read in a thread, which a cancelled caller does not wait for.

        Raises:
            AuthenticationError: the file cannot be read.
        """
        file = self._file
        if file is None:
            return self._fixed
        try:
            self._fixed = self._known(await to_thread.run_sync(_read, file, abandon_on_cancel=True))
        except _Unreadable as error:
            raise AuthenticationError(
                self._store, f"the file of ?password_file= cannot be read ({type(error).__name__}); expected one line"
            ) from None
        return self._fixed

    def _known(self, password: str) -> SecretStr:
        return know_login(SecretStr(password), self._user, password)


def _read(file: str) -> str:
    return read_secret_file(file).decode("utf-8").splitlines()[0]
