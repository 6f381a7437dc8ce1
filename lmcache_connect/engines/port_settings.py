"""`port_settings`: the settings of a port's connector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ..config import ConnectorConfig, byte_count, meant, second_count
from ..errors import InvalidArgumentError, InvalidConfigError

MOST_SECONDS = 86_400.0
"""The longest deadline."""

PORT_OPTIONS: Final = ("deadline", "max_waiting_store_bytes")
"""The options of a port that are not settings of its connector."""


def check_option_names(given: Iterable[str], own: Iterable[str]) -> None:
    """Checks that each name is one of `own`, or a setting of `ConnectorConfig`.

    Raises:
        InvalidConfigError: one is neither. It says what may have been meant, and which names there are.
    """
    known = list(dict.fromkeys([*own, *ConnectorConfig.model_fields]))
    for name in given:
        if name not in known:
            raise InvalidConfigError(
                name, f"no such option{meant(str(name), known)}; expected one of {', '.join(known)}"
            )


def port_settings(deadline: float, given: dict[str, Any]) -> ConnectorConfig:
    """The settings that an engine's connector has by default, and those that were given.

    A store that does not answer fails an operation well before a job's deadline, so that the circuit breaker learns of
    it: a job that is cancelled says nothing about the store.

    Raises:
        InvalidConfigError: a setting does not exist, or has a wrong value.
    """
    defaults: dict[str, Any] = {
        # The port makes failures of errors itself, and then knows the reason.
        "errors": "raise",
        "operation_timeout": min(10.0, 0.8 * deadline),
        "stall_timeout": min(3.0, 0.25 * deadline),
        "retries": 1,
        "breaker_failures": 3,
    }
    check_option_names(given, PORT_OPTIONS)
    return ConnectorConfig.load(**{**defaults, **given})


def checked_deadline(seconds: object) -> float:
    """A deadline as a number of seconds, also from a text such as `250ms`.

    Raises:
        InvalidArgumentError: it is not a number above 0 and up to a day.
    """
    try:
        found = second_count(seconds)
    except ValueError as error:
        raise InvalidArgumentError("deadline", f"{seconds!r}; {error}") from None
    seconds = float(found) if isinstance(found, str) else found
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MOST_SECONDS:
        raise InvalidArgumentError("deadline", f"{seconds!r}; expected seconds: a number above 0, at most 86400")
    return float(seconds)


def checked_bytes(name: str, size: object) -> int:
    """A number of bytes, also from a text such as `512MiB`.

    Raises:
        InvalidArgumentError: it is neither.
    """
    try:
        nbytes = byte_count(size)
    except ValueError as error:
        raise InvalidArgumentError(name, f"{size!r}; {error}") from None
    if isinstance(nbytes, bool) or not isinstance(nbytes, int) or nbytes < 0:
        raise InvalidArgumentError(name, f"{size!r}; expected a number of bytes from 0, or a text such as 512MiB")
    return nbytes
