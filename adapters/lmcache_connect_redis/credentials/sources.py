"""`credentials_of`: from a URL and its options to the source of its credentials."""

from __future__ import annotations

import os

from pydantic import SecretStr

from lmcache_connect import ConnectorConfig, RemoteURL
from lmcache_connect.errors import InvalidOptionError
from lmcache_connect.known_secrets import know_login
from lmcache_connect.outside import Lane

from ..options import RedisOptions
from ..protocol.credential import Credential
from .callable_import import import_callable
from .credential_callable import CredentialCallable
from .credentials import Credentials, FixedCredentials
from .password_file import UNREADABLE, PasswordFile


def credentials_of(
    url: RemoteURL,
    options: RedisOptions,
    settings: ConnectorConfig | None = None,
    lane: Lane | None = None,
    *,
    shown_before: str = "",
) -> Credentials:
    """Returns where the credentials of a URL come from. The caller closes it.

    `settings` say which modules a callable may be imported from; None: none. `lane` is where calls of it, and readings
    of a file, are counted. `shown_before` stands before an option's name in later errors.

    Raises:
        InvalidOptionError: the options name no readable source, or contradict the URL. No secret is shown.
    """
    user = url.username
    options_given = {
        "password_file": options.password_file,
        "password_env": options.password_env,
        "credentials": options.credentials,
    }
    [option, source] = next(((name, value) for name, value in options_given.items() if value is not None), ("", ""))
    if option and url.password is not None:
        raise InvalidOptionError(url.redacted(), option, "***", "no password in the URL besides it")
    if option == "credentials":
        if user is not None:
            raise InvalidOptionError(
                url.redacted(), option, "***", "no user in the URL besides it: it returns the user"
            )
        call = import_callable(url, source, settings)
        return CredentialCallable(url.label(), call, options.credentials_timeout, lane or Lane(url.label()))
    if option == "password_file":
        try:
            lane = lane or Lane(url.label())
            return PasswordFile(url.label(), user, source, lane, shown_before + option)
        except UNREADABLE as error:
            expected = f"the path of a file with the password in its first line ({type(error).__name__})"
            raise InvalidOptionError(url.redacted(), option, "***", expected) from None
    if option == "password_env":
        password = os.environ.get(source)
        if password is None:
            expected = "the name of an environment variable that is set to the password, not the password itself"
            raise InvalidOptionError(url.redacted(), option, "***", f"{expected} (KeyError)")
        return FixedCredentials(Credential(user, know_login(SecretStr(password), user, password)))
    return FixedCredentials(Credential(user, url.password))
