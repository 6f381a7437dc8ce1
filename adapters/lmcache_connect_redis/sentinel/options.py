"""What a Sentinel URL may say."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import model_validator

from lmcache_connect import InvalidURLError, RemoteURL

from ..options import RedisOptions

SENTINEL_PORT: Final = 26379
SENTINEL_SCHEMES: Final = ("redis-sentinel", "rediss-sentinel", "valkey-sentinel", "valkeys-sentinel")
_SHAPE: Final = (
    "redis-sentinel://host[:port][,host[:port]...]/service, the name that the sentinels have for the primary"
)


class SentinelOptions(RedisOptions):
    """`redis-sentinel://[user[:password]@]host[:port][,host[:port]...]/service[?option=value&...]`

    The user, the password and the options of `RedisOptions` are for the data nodes.
    """

    sentinel_username: str | None = None
    """The user at the sentinels. By default none, whatever the user at the data nodes is."""

    sentinel_password_file: str | None = None
    """A file whose first line is the password at the sentinels. By default they are told none."""

    sentinel_password_env: str | None = None
    """An environment variable that holds the password at the sentinels."""

    sentinel_tls: bool | None = None
    """Whether the sentinels speak TLS. By default they do if the data nodes do, as the scheme says."""

    replicas: Literal["never", "prefer"] = "never"
    """What gets and look-ups are made at: `never`, at the primary; `prefer`, at a replica, as long as one answers."""

    @model_validator(mode="after")
    def _one_sentinel_password_source(self) -> Self:
        if self.sentinel_password_file is not None and self.sentinel_password_env is not None:
            raise ValueError("sentinel_password_file and sentinel_password_env exclude each other")
        if self.sentinel_username is not None and not (self.sentinel_password_file or self.sentinel_password_env):
            raise ValueError("sentinel_username needs sentinel_password_file or sentinel_password_env besides it")
        return self


def service_of(url: RemoteURL) -> str:
    """Returns the name by which the sentinels know the primary.

    Raises:
        InvalidURLError: the path is not one name.
    """
    if "://" in url.path:
        raise InvalidURLError(url.redacted(), "several URLs joined by a comma", f"one, with its hosts joined: {_SHAPE}")
    names = [name for name in url.path.replace(",", "/").split("/") if name]
    match names:
        case [service]:
            return service
        case []:
            raise InvalidURLError(url.redacted(), "no service: the path is empty", _SHAPE)
        case [_, digits] if digits.isascii() and digits.isdigit():
            reason = f"the path holds more than a service: {digits!r}"
            raise InvalidURLError(url.redacted(), reason, f"a database number as ?db={digits}")
        case _:
            raise InvalidURLError(url.redacted(), f"{len(names)} services: {', '.join(names)}", _SHAPE)
