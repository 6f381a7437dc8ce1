"""What a Redis URL may say."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lmcache_connect import ConnectorOptions, InvalidURLError, RemoteURL
from lmcache_connect.config import SIZE, Bytes, Lifetime, Seconds
from lmcache_connect.errors import InvalidOptionError
from lmcache_connect.record import MIN_STRIPE_BYTES

DEFAULT_PORT: Final = 6379
TLS_SCHEMES: Final = frozenset({"rediss", "valkeys"})

CALLABLE: Final = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""What `credentials` looks like: `module:callable`."""

Count = Annotated[int, Field(ge=1, le=1024)]


class RedisOptions(ConnectorOptions):
    """`redis://[user[:password]@]host[:port][/db][?option=value&...]`, `unix://[user:password@]/path[?db=0&...]`"""

    db: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Database number. By default the one in the path, or 0."""

    ttl: Lifetime | None = None
    """Seconds after which the server forgets a chunk. By default never."""

    layout: Literal["connect", "lmcache"] = "connect"
    """How chunks are stored: `connect`, as records of this toolkit; `lmcache`, as LMCache's own `redis://` does."""

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,128}$")] | None = None
    """A namespace: keys are stored as `prefix:key`, and keys of other prefixes are not seen. No ':' in it."""

    stripe: Annotated[int, SIZE, Field(ge=0, le=1 << 30)] = 1 << 20
    """Bytes. A chunk of more than four times this size is stored in pieces of it, under one key. 0 keeps all whole."""

    pool_size: Count = 2
    """Connections for large calls, from 1 MiB on; as many for small ones, and for gets that wait for room in the arena.
    Look-ups share one of their own. So there are `3 * pool_size + 1` at most. They are opened when they are needed."""

    io: Literal["auto", "thread", "loop"] = "auto"
    """What moves a call's bytes: `thread`, threads, of which each has a connection: two for gets, one for puts; `loop`,
    the event loop over up to `pool_size` connections; `auto`, threads from 1 MiB on, except for a get of one chunk of
    up to 4 MiB where no other get is under way."""

    connect_timeout: Seconds = 5.0
    """How long connecting, the TLS handshake and authentication may take together, in seconds."""

    max_value_bytes: Bytes = 512 << 20
    """The longest record that is sent or received. The server's limit is `proto-max-bulk-len`, by default 512 MiB."""

    checksum: bool = True
    """Whether records are written with a checksum. One that has a checksum is always verified."""

    password_file: str | None = None
    """A file whose first line is the password."""

    password_env: str | None = None
    """An environment variable that holds the password."""

    credentials: Annotated[str, Field(pattern=CALLABLE)] | None = None
    """`module:callable`, which returns the user, the password and for how many seconds they are good. The setting
    `allowed_modules` has to name the module."""

    credentials_timeout: Seconds = 4.0
    """How long the callable of `credentials` may take, in seconds."""

    ca_file: str | None = None
    """Certificate authorities to trust instead of the system's (PEM)."""

    cert_file: str | None = None
    """This client's certificate (PEM)."""

    key_file: str | None = None
    """The key of `cert_file` (PEM). By default it is in the same file."""

    verify: bool = True
    """Whether the server's certificate is verified. `false` is for trials alone."""

    server_name: str | None = None
    """The name expected in the server's certificate, where it is not the host's."""

    @field_validator("stripe")
    @classmethod
    def _large_enough(cls, stripe: int) -> int:
        if 0 < stripe < MIN_STRIPE_BYTES:
            raise ValueError(f"stripe must be 0, or at least {MIN_STRIPE_BYTES} bytes")
        return stripe

    @field_validator("server_name")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        try:
            is_name = name is None or ("\0" not in name and bool(name.encode("idna")))
        except UnicodeError:
            is_name = False
        if not is_name:
            raise ValueError("server_name must be a host's name, or an address, as in a certificate")
        return name

    @field_validator("prefix", "stripe", "checksum")
    @classmethod
    def _known_to_the_layout(cls, value: object, info: ValidationInfo) -> object:
        # Defaults are not validated: only what the URL says comes here.
        if info.data.get("layout") == "lmcache":
            raise ValueError(f"no such option besides layout=lmcache, whose records have no {info.field_name}")
        return value

    @model_validator(mode="after")
    def _one_password_source(self) -> Self:
        if sum(source is not None for source in (self.password_file, self.password_env, self.credentials)) > 1:
            raise ValueError("password_file, password_env and credentials exclude each other")
        return self

    @model_validator(mode="after")
    def _certificate_for_the_key(self) -> Self:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file besides it")
        return self

    @property
    def ttl_ms(self) -> int | None:
        """`ttl` in milliseconds, at least 1."""
        return None if self.ttl is None else max(1, round(self.ttl * 1000))


def refuse_needless_certificates(url: RemoteURL, options: RedisOptions) -> None:
    """Refuses options of TLS where nothing speaks TLS: who gives them believes that something does.

    Raises:
        InvalidOptionError: one of them is there.
    """
    for name in ("ca_file", "cert_file", "server_name"):
        value: str | None = getattr(options, name)
        if value is not None:
            raise InvalidOptionError(
                url.redacted(), name, value, f"a scheme with TLS besides it: {url.scheme} has none"
            )


def database(url: RemoteURL, options: RedisOptions) -> int:
    """Returns the database number of a URL.

    Raises:
        InvalidURLError: the path is not a number, or contradicts the option.
    """
    if url.scheme == "unix":
        return options.db or 0
    digits = url.path.strip("/")
    if not digits:
        return options.db or 0
    if not digits.isascii() or not digits.isdigit() or len(digits) > 6:
        raise InvalidURLError(url.redacted(), f"the path {url.path!r} is not a database number", "'/0', '/1', ...")
    if options.db is not None and options.db != int(digits):
        raise InvalidOptionError(url.redacted(), "db", str(options.db), f"the path says {digits}; give one of them")
    return int(digits)


def probe_of(options: RedisOptions) -> bytes:
    """Returns a key under the connector's prefix that never exists, for asking which commands the user may use."""
    return (f"{options.prefix}:lmcache-connect:probe" if options.prefix else "lmcache-connect:probe").encode()
