"""`port_settings`: the settings of a port's connector."""

from __future__ import annotations

from typing import Any

from ..config import ConnectorConfig, byte_count
from ..errors import InvalidArgumentError

MOST_SECONDS = 86_400.0
"""The longest deadline."""


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
    return ConnectorConfig.load(**{**defaults, **given})


def checked_deadline(seconds: object) -> float:
    """A deadline as a number of seconds.

    Raises:
        InvalidArgumentError: it is not a number above 0 and up to a day.
    """
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
