"""`PasswordSource`: where a URL's password comes from. A file is read again for every connection."""

from __future__ import annotations

import os
from pathlib import Path

from anyio import to_thread
from pydantic import SecretStr

from lmcache_connect import AuthenticationError, RemoteURL
from lmcache_connect.errors import InvalidOptionError

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
        self._fixed = url.password
        for option, source in (("password_file", options.password_file), ("password_env", options.password_env)):
            if source is None:
                continue
            if url.password is not None:
                raise InvalidOptionError(url.redacted(), option, "***", "no password in the URL besides it")
            try:
                self._fixed = _read(source) if option == "password_file" else SecretStr(os.environ[source])
            except _Unreadable as error:
                raise InvalidOptionError(
                    url.redacted(), option, "***", f"something readable ({type(error).__name__})"
                ) from None

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
            return await to_thread.run_sync(_read, file, abandon_on_cancel=True)
        except _Unreadable as error:
            raise AuthenticationError(
                self._store, f"the file of ?password_file= cannot be read ({type(error).__name__}); expected one line"
            ) from None


def _read(file: str) -> SecretStr:
    return SecretStr(Path(file).read_text("utf-8").splitlines()[0])
