"""`APIServerConfig`: where the internal API listens, and who may use it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from ..config import SIZE, Seconds, Settings, SettingsFile
from ..errors import InvalidConfigError
from ..known_secrets import know
from ..observability import read_secret_file

Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]
Protection: TypeAlias = Literal["writes", "all"]

MIN_TOKEN_LENGTH = 16


class APIServerConfig(Settings):
    """Frozen settings of one server. Arguments beat the environment, which beats the settings file, and then defaults.

    Each setting `name` is read from the environment variable `LMCACHE_CONNECT_API_NAME`, where lists are JSON, and then
    from the table `[api]` of the settings file.

    Raises:
        InvalidConfigError: from `load()`, naming the setting and what was expected of it.
    """

    model_config = SettingsConfigDict(env_prefix="LMCACHE_CONNECT_API_")

    file_table: ClassVar[str] = "api"

    host: str = "127.0.0.1"
    """The address to listen on. An address other than loopback needs a token."""

    port: Port = 0
    """The port to listen on. 0 takes a free one: see `InternalAPIServer.address`."""

    unix_socket: Path | None = None
    """The path of a unix socket to listen on instead. Only its owner may use it (mode 0600)."""

    token: SecretStr | None = None
    """The token that callers send as `Authorization: Bearer <token>`. At least 16 characters."""

    token_file: Path | None = None
    """A file to read the token from, instead of `token`. White space around the token is ignored."""

    protect: Protection | None = None
    """What needs the token: `all`, or `writes` alone. Default: `writes` on loopback and unix sockets, else `all`."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names, without a port, that requests may name in `Host` besides IP addresses and localhost."""

    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$", max_length=256)] = ""
    """A path prefix that requests may have, such as `/cache`, behind a proxy that passes paths as they come."""

    max_body_bytes: Annotated[int, SIZE, Field(ge=1024, le=1 << 26)] = 1 << 20
    """The most bytes of a request's body."""

    request_timeout: Seconds = 30.0
    """How long a request may take in seconds, its body included."""

    head_timeout: Seconds = 10.0
    """How long a client may take to send a request's head, or to take an answer, in seconds."""

    ready_timeout: Seconds = 2.0
    """How long the stores have to answer the readiness check, in seconds."""

    stop_grace: Seconds = 5.0
    """How long `stop()` lets requests under way finish, in seconds."""

    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 256
    """The most requests that are worked on at a time. Sixteen more connections may wait; the oldest makes room."""

    thread: bool = False
    """Whether the server runs on an event loop in a thread of its own. Otherwise it runs on the caller's loop."""

    metrics_port: Port | None = None
    """A port for `/metrics` alone, so that a scraper reaches nothing else. 0 takes a free one."""

    metrics_host: str = "127.0.0.1"
    """The address of that port. An address other than loopback needs `metrics_token` or `metrics_open`."""

    metrics_token: SecretStr | None = None
    """The token for that port. At least 16 characters."""

    metrics_open: bool = False
    """Whether that port may listen on any address without a token. Metrics hold neither secrets nor keys."""

    loggers: tuple[str, ...] = ("lmcache_connect", "lmcache", "uvicorn")
    """Loggers whose level may be changed. It holds for the loggers below them as well."""

    @field_validator("token", "metrics_token")
    @classmethod
    def _long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            _check_token(token.get_secret_value())
            know(token, token.get_secret_value())
        return token

    @model_validator(mode="after")
    def _one_token(self) -> APIServerConfig:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both given; expected one of them")
        return self

    @classmethod
    def _loaded(cls, read: SettingsFile | None, settings: dict[str, Any]) -> Self:
        """Reads the token file as well.

        Raises:
            InvalidConfigError: as from `Settings.load`; or an address that everybody may reach has no token.
        """
        made = super()._loaded(read, settings)
        if made.token_file is not None:
            made = made.model_copy(update={"token": _read_token(made.token_file), "token_file": None})
        made.check_access()
        return made

    def check_access(self) -> None:
        """Refuses settings that would let everybody on the network in.

        Raises:
            InvalidConfigError: an address that other machines reach has no token.
        """
        if self.unix_socket is None and not is_loopback(self.host) and self.token is None:
            raise InvalidConfigError(
                "token",
                f"{self.host} can be reached from other machines, which needs one: set token or token_file, or listen "
                "on 127.0.0.1 or on a unix socket",
            )
        is_guarded = self.metrics_token is not None or self.metrics_open
        if self.metrics_port is not None and not is_loopback(self.metrics_host) and not is_guarded:
            raise InvalidConfigError(
                "metrics_token",
                f"{self.metrics_host} can be reached from other machines: set metrics_token, or metrics_open=true to "
                "let everybody read the metrics",
            )

    @property
    def protects_reads(self) -> bool:
        """Whether reading needs the token too."""
        if self.token is None:
            return False
        if self.protect is not None:
            return self.protect == "all"
        return self.unix_socket is None and not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than localhost may resolve to any address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_token(token: str) -> None:
    if len(token) < MIN_TOKEN_LENGTH:
        raise ValueError(f"it has {len(token)} characters; expected at least {MIN_TOKEN_LENGTH}")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("it holds a space, a control character or one beyond ASCII, which a header cannot carry")


def _read_token(file: Path) -> SecretStr:
    try:
        token = read_secret_file(file).decode("ascii", "replace").strip()
        _check_token(token)
    except OSError as error:
        raise InvalidConfigError("token_file", f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidConfigError("token_file", f"{file} does not hold a token: {error}") from None
    return know(SecretStr(token), token)
