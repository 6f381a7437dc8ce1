"""`store_url`: the store's URL from an engine's configuration, or from the environment."""

from __future__ import annotations

import logging
from typing import Final

from ..config import ConnectorConfig
from ..errors import InvalidConfigError
from ..observability import event
from ..redaction import redact, secrets_of_url

_INSTEAD: Final = (
    "password_env=VARIABLE or password_file=PATH among the URL's options where the store takes them, "
    "or the whole URL in the environment variable LMCACHE_CONNECT_URL"
)


def store_url(given: object, option: str, place: str) -> str:
    """The URL that `place`, a part of the engine's configuration, gives by the name `option`.

    None or "": the environment variable `LMCACHE_CONNECT_URL` has it. A URL of the configuration that holds a secret is
    taken, and the log says what to write instead: engines print their configuration, and processes' arguments are
    shown to every user of the machine. Called once by each client that starts.

    Raises:
        InvalidConfigError: there is no URL, or it is not a text.
    """
    if isinstance(given, str) and given:
        if any(secrets_of_url(given)):
            event(logging.WARNING, "engine_secret_in_url", option=option, store=redact(given), write=_INSTEAD)
        return given
    known = ConnectorConfig.load().url if given is None or given == "" else None
    if known is None:
        raise InvalidConfigError(
            option,
            f"it is missing from {place}, and from LMCACHE_CONNECT_URL; "
            "expected the store's URL, such as redis://store:6379 or s3://bucket",
        )
    return known.get_secret_value()
