"""`CredentialAnswer`: what a callable has returned, looked at: it is other people's."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pydantic import SecretStr

from lmcache_connect.known_secrets import know_login

from ..protocol.credential import Credential

_EXPECTED: Final = "expected (user, password) or (user, password, expires)"

_MOST_BYTES: Final = 64 << 10
"""The longest user or password that is sent."""

_MOST_SECONDS: Final = 10 * 365 * 86_400
"""A longer time is a time since 1970 by mistake."""


class WrongAnswerError(Exception):
    """A callable returned something else than a credential. The message shows nothing of it."""


class CredentialAnswer(NamedTuple):
    """A credential, and for how many seconds it is good. Infinite where nothing was said."""

    credential: Credential
    seconds: float

    @classmethod
    def of(cls, answer: object) -> CredentialAnswer:
        """Returns what `answer` says: `(user, password)`, or a third item, the expiry.

        The user is a text or None. The expiry is seconds from now, an aware `datetime`, or None.

        Raises:
            WrongAnswerError: it says something else.
        """
        if not isinstance(answer, tuple) or len(answer) not in (2, 3):
            size = f" of {len(answer)}" if isinstance(answer, tuple) else ""
            raise WrongAnswerError(f"it returned a {type(answer).__name__}{size}; {_EXPECTED}")
        user, password = None if answer[0] is None else _text("user", answer[0]), _text("password", answer[1])
        seconds = _seconds(answer[2]) if len(answer) == 3 else math.inf
        return cls(Credential(user, know_login(SecretStr(password), user, password)), seconds)


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise WrongAnswerError(f"its {what} is a {type(value).__name__}; expected a str")
    text = str.__str__(value)  # not the methods of a class that derives from it
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise WrongAnswerError(f"its {what} is not a valid text") from None
    if not 0 < size <= _MOST_BYTES:
        raise WrongAnswerError(f"its {what} has {size} bytes; expected 1 to {_MOST_BYTES}")
    return text


def _seconds(value: object) -> float:
    if value is None:
        return math.inf
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise WrongAnswerError("its expiry is a datetime without a time zone; expected an aware one")
        seconds = (value - datetime.now(UTC)).total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(max(min(value, 2 * _MOST_SECONDS), -1))
    else:
        raise WrongAnswerError(f"its expiry is a {type(value).__name__}; expected seconds, a datetime or None")
    if not seconds <= _MOST_SECONDS:
        raise WrongAnswerError("its expiry is more than ten years away; expected seconds from now, or a datetime")
    if seconds <= 0:
        raise WrongAnswerError("it returned a credential that has expired")
    return seconds
